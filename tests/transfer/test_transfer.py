"""The transfer room's plain functions: names, listings, hashes, waiting, the ssh configuration."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from checks import rsync_tool
from jobs import detached
from kit import console
from transfer import (
    adapter_units,
    address,
    commit_shell,
    exclusions,
    host,
    host_shell,
    listing,
    local_files,
    push,
    push_plan,
    remote_script,
    retries,
    ssh_configuration,
)


@pytest.mark.parametrize("name", ["gpu1", "me@10.0.0.7", "a.b-c_d", "_x", "9", "u@h.example.org"])
def test_a_plain_ssh_name_is_taken(name):
    assert address.parse(name, "tandem").root == "tandem"


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-x", "a;b", "$(x)", "`x`", "a\nb", "a\n", "a@b@c", "a@-b", "a:b", "ü", "a/b"],
)
def test_any_other_ssh_name_is_refused(name):
    with pytest.raises(console.Misuse):
        address.parse(name, "tandem")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("tandem", "tandem"),
        ("~/work/tandem/", "work/tandem"),
        ("./a/./b//c", "a/b/c"),
        ("/scratch/me", "/scratch/me"),
        ("a+b=c@d~e", "a+b=c@d~e"),
    ],
)
def test_a_remote_dir_is_written_in_one_way(given, used):
    assert address.check_remote_dir(given) == used


@pytest.mark.parametrize(
    "given", ["", ".", "/", "~", "-a", "a/../b", "..", "a b", "a\n", "$(x)", "~x/y", "a*", "a'b"]
)
def test_a_remote_dir_that_a_shell_could_misread_is_refused(given):
    with pytest.raises(console.Misuse):
        address.check_remote_dir(given)


def test_the_ssh_configuration_holds_every_line_that_transfers_rely_on(monkeypatch, tmp_path):
    monkeypatch.delenv("TANDEM_SSH_CONFIG", raising=False)
    lines = ssh_configuration.ssh_config(
        Path("/tmp/td.1.x"), accept_new=False, password=False
    ).splitlines()
    first_include = next(n for n, line in enumerate(lines) if line.startswith("Include"))
    for wanted in (
        "BatchMode yes",
        "ConnectTimeout 10",
        "ServerAliveInterval 15",
        "ServerAliveCountMax 4",
        "StrictHostKeyChecking yes",
        "Ciphers ^aes128-gcm@openssh.com",
        "ControlMaster auto",
        "ClearAllForwardings yes",
    ):
        assert wanted in lines[:first_include], "the first value holds in ssh"
    assert "Include ~/.ssh/config" in lines


def test_the_control_socket_fits_macos_even_while_ssh_binds_it():
    there = host.host_at(address.parse("gpu1", "tandem"))
    there.open()
    try:
        bound = f"{there.private}/c.{'0' * 40}.{'x' * 16}"  # %C is 40 hex digits
        assert len(bound) < 104
        assert there.private.stat().st_mode & 0o777 == 0o700
    finally:
        there.close()
    assert not there.private.exists()


def test_leftovers_of_killed_commands_are_swept_and_live_ones_kept(tmp_path):
    ended = subprocess.run(["true"], check=False)
    assert ended.returncode == 0
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale, live = Path(f"/tmp/td.{dead.pid}.test"), Path(f"/tmp/td.{os.getpid()}.test")
    for folder in (stale, live):
        folder.mkdir()
    try:
        ssh_configuration.sweep()
        assert not stale.exists()
        assert live.exists()
    finally:
        shutil.rmtree(stale, ignore_errors=True)
        live.rmdir()


def test_waits_double_from_2_to_32_seconds_give_or_take_a_quarter(monkeypatch):
    monkeypatch.delenv("TANDEM_RETRY_WAIT", raising=False)
    for attempt, middle in enumerate([2, 4, 8, 16, 32, 32, 32], 1):
        assert all(
            0.75 * middle <= retries.wait_before(attempt) <= 1.25 * middle for _ in range(50)
        )


NEVER = (
    ".env .env.local server.pem a.key id_rsa id_ed25519 .credentials hf_token token .netrc "
    ".git .envs .venv .venv-local __pycache__ node_modules .incoming .rsync-partial .v1.abc.part "
    ".lock .cache rclone.conf credentials.json x.pyc"
)
ALWAYS = (
    "tokenizer.json tokenizer_config.json token.py environment.yml keys.md .gitignore .gitkeep "
    "requirements.txt adapter_model.safetensors special_tokens_map.json"
)


@pytest.mark.parametrize("name", NEVER.split())
def test_these_names_never_travel(name):
    assert exclusions.why_not(name)


@pytest.mark.parametrize("name", ALWAYS.split())
def test_these_names_travel(name):
    assert not exclusions.why_not(name)


def test_what_stays_by_its_place_and_its_kept_folders():
    assert exclusions.stays("models/llama/model.safetensors")
    assert exclusions.stays("data/raw/page.html")
    assert not exclusions.stays("models/.gitkeep")
    assert not exclusions.stays("data/processed/train_sft.jsonl")


def test_hash_lines_of_every_tool_are_read():
    digest = "a" * 64
    output = f"{digest} *./x y\n{digest}  ./b\n\\{digest}  ./c\\\\d\nnoise\n".encode()
    assert listing.read_hashes(output) == dict.fromkeys(["x y", "b", "c\\d"], digest)


FAKE_TOOLS = {
    "gnu": {},
    "busybox": {"find": 'case "$*" in *-printf*) exit 1 ;; esac; exec {find} "$@"'},
    "bsd": {
        "find": 'case "$*" in *-printf*) exit 1 ;; esac; exec {find} "$@"',
        "stat": 'case "$1" in -c) exit 1 ;; esac; shift 3; '
        "exec {stat} -L -c '%a %i %s %.9Y %.9Z %n' \"$@\"",
    },
}


@pytest.mark.parametrize("kind", FAKE_TOOLS)
def test_the_listing_is_the_same_with_gnu_busybox_and_bsd_tools(kind, tmp_path, folder_host):
    if subprocess.run(["find", ".", "-maxdepth", "0", "-printf", ""], check=False).returncode:
        pytest.skip("the stand-ins are built on GNU find and stat")
    kit, bin_ = tmp_path / "kit", tmp_path / "bin"
    bin_.mkdir()
    for name, text in FAKE_TOOLS[kind].items():
        real = {tool: shutil.which(tool) for tool in ("find", "stat")}
        (bin_ / name).write_text("#!/bin/sh\n" + text.format(**real) + "\n")
        (bin_ / name).chmod(0o755)
    (kit / "data" / "processed").mkdir(parents=True)
    (kit / "models").mkdir()
    (kit / "models" / ".gitkeep").touch()
    (kit / "models" / "big").touch()
    (kit / "data" / "processed" / "a b").write_text("four")
    (kit / "run.sh").write_text("x")
    (kit / "run.sh").chmod(0o755)
    env = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"}
    command = ["sh", "-c", f"{host_shell.LISTING}\nlist_files {push.find_arguments()}"]
    output = subprocess.run(command, cwd=kit, env=env, capture_output=True, check=True).stdout
    files = listing.read_listing(folder_host, output).files
    assert set(files) == {"data/processed/a b", "run.sh", "models/.gitkeep"}
    for name, listed in files.items():
        here = local_files.look(kit / name)
        assert listed[:3] == here[:3], name
    assert files["run.sh"].executable
    assert output.startswith(b"nul" if kind == "gnu" else b"lines")


@pytest.mark.parametrize("tool", ["openssl", "sha256sum", "shasum"])
def test_the_hash_there_is_right_with_whichever_tool_there_is(tool, tmp_path):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("xargs", "sh", tool):
        (bin_ / name).symlink_to(shutil.which(name))
    (tmp_path / "x y").write_text("four")
    script = f"PATH={bin_}\n{host_shell.HASH}hash_tool; hash_files"
    command = [shutil.which("sh"), "-c", script]
    names = b"./x y\0./missing\0"
    output = subprocess.run(command, cwd=tmp_path, input=names, capture_output=True, check=True)
    head, _, rest = output.stdout.partition(b"\n")
    assert head.decode() == tool
    wanted = "04efaf080f5a3e74e1c29d1ca6a48569382cbbcd324e8d59d2b83ef21c039f00"
    assert listing.read_hashes(rest) == {"x y": wanted}


def test_units_are_versions_and_finals():
    assert adapter_units.unit_of("adapters/mapper/v1.0.0/card.json") == "adapters/mapper/v1.0.0"
    assert adapter_units.unit_of("adapters/runs/r1/final/a/b") == "adapters/runs/r1/final"
    for loose in (
        "adapters/runs/r1/status.json",
        "adapters/mapper/v1.0.0.retired.json",
        "reports/x/v1.0.0/y",
        "adapters/runs/v1.0.0/log.txt",
    ):
        assert adapter_units.unit_of(loose) == "", loose


def test_a_commit_moves_many_files_with_few_commands_and_manifests_last(tmp_path):
    names = [f"data/processed/d{n % 4}/f{n}" for n in sorted(range(800), key=lambda n: n % 4)]
    moves = commit_shell.placing([*names, "data/processed/manifest.json"], set())
    assert len(moves) == 5
    assert "manifest.json" in moves[-1]


@pytest.fixture
def folder_host(tmp_path):
    """A folder that stands in for a host, open."""
    (tmp_path / "host").mkdir()
    there = host.host_at(address.parse(str(tmp_path / "host"), "kit"))
    there.open()
    yield there
    there.close()


def test_of_a_script_that_is_cut_nothing_runs(tmp_path, monkeypatch, folder_host):
    there, tmp_path = folder_host, tmp_path / "host"
    script = f"cd {tmp_path}\ntouch first\ntouch second"

    def cut_short(remote, cut, code):
        remote.fed = True
        remote.process.stdin.write(code[:-cut])
        remote.process.stdin.close()

    for cut in (2, 5, 90):
        with monkeypatch.context() as patched, pytest.raises(console.Problem):
            patched.setattr(
                remote_script.RemoteScript, "feed", functools.partialmethod(cut_short, cut)
            )
            there.run_in_shell(script, "a test")
        assert not list(tmp_path.iterdir())
    there.run_in_shell(script, "a test")
    assert len(list(tmp_path.iterdir())) == 2


def test_the_kept_shell_takes_scripts_one_after_another_and_none_sees_the_next(folder_host):
    assert folder_host.run_in_shell("echo $$; cat; cd /; set -e; word=1", "a test") != b""
    first = folder_host.run_in_shell("echo $$ $word; pwd", "a test")
    second = folder_host.run_in_shell("echo $$ $word; pwd", "a test")
    assert first == second, "one shell, and nothing of a script is left in it"
    with pytest.raises(host.ScriptFailed) as failed:
        folder_host.run_in_shell("echo a reason >&2; exit 3", "a test")
    assert (failed.value.exit_code, failed.value.complaint) == (3, "a reason")
    third = folder_host.run_in_shell("echo an old reason >&2; echo $$ $word; pwd", "a test")
    assert third != second, "a script that failed ended the shell"
    with pytest.raises(host.ScriptFailed, match="a new reason"):
        folder_host.run_in_shell("echo a new reason >&2; exit 4", "a test")


@pytest.mark.parametrize("name", ["../x", "a b", "", "a;b", "-x", "a.b"])
def test_a_job_name_is_one_plain_word(name):
    assert not detached.JOB.fullmatch(name)


def test_rsync_is_asked_for_its_abilities_not_for_its_version(monkeypatch):
    shim = Path(__file__).parent.parent / "openrsync-shim" / "rsync"
    if not shutil.which("rsync"):
        pytest.skip("no rsync here; apt-get install rsync")
    monkeypatch.setenv("RSYNC", str(shim))
    assert rsync_tool.choose() == (str(shim), False)


def test_an_rsync_that_never_answers_is_named_and_not_used(monkeypatch, tmp_path, capsys):
    silent = tmp_path / "rsync"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setenv("RSYNC", str(silent))
    monkeypatch.setattr(rsync_tool, "PROBE_SECONDS", 0.1)
    assert rsync_tool.choose() is None
    assert f"{silent} gives no answer" in capsys.readouterr().err


def test_what_stands_in_the_way_there_is_a_file_above_or_a_folder_below():
    remote_files = dict.fromkeys(["a", "b/c/d", "e", "f/g"])
    assert push_plan._blocking(["a/new/x", "b/c", "f/h", "i"], remote_files) == ["a", "b/c"]
