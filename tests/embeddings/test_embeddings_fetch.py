"""Shards come from real ssh servers: all at once, checked, resumed, and no secret in sight."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import write_manifest
from embeddings import cluster_fetch, credentials, sync_record
from embeddings.cluster_link import ClusterLink
from embeddings.cluster_transfer import PARALLEL, ClusterTransfer
from kit import console
from support.checkout import ROOT
from support.embeddings_clusters import SHARDS, cluster  # noqa: F401
from support.embeddings_samples import shard, shards, vectors
from support.processes import wait_until

pytestmark = pytest.mark.slow  # a sync over real ssh takes a second or more each

SECRET = "hunter2 s3cret"


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here"


def find(*names: str, folder: Path | None = None) -> list[credentials.Cluster]:
    return [credentials.find(name, folder or Path("/nowhere"), SHARDS) for name in names]


def sync(here: Path, clusters, **options) -> list[cluster_fetch.ClusterResult]:
    found = cluster_fetch.sync(clusters, cluster_fetch.FetchOptions(here, **options))
    assert not glob.glob(f"/tmp/td.{os.getpid()}.*")  # no configuration is left behind
    return found


def one(here: Path, clusters, **options) -> cluster_fetch.ClusterResult:
    (result,) = sync(here, clusters, **options)
    return result


def good(result: cluster_fetch.ClusterResult) -> cluster_fetch.ClusterResult:
    assert result.problem is None, result.problem
    return result


def same(here: Path, there: Path) -> None:
    """Every shard there is here, byte for byte."""
    paths = sorted(there.glob("*.pkl"))
    assert paths
    for path in paths:
        assert (here / path.name).read_bytes() == path.read_bytes()


def test_two_clusters_by_key_and_by_password_give_all_their_shards(cluster, here, tmp_path):  # noqa: F811
    first, second = cluster("tensor01"), cluster("tensor02", SECRET)
    array = vectors(400)
    shards(first.folder, array, 4)
    for number in (2, 3):
        shutil.move(first.folder / f"cluster1_gpu{number}.pkl", second.folder)
    second.credentials(tmp_path / "cred")
    names = find("tensor01", "tensor02", folder=tmp_path / "cred")
    results = sync(here, names)
    assert [len(good(r).fetched) for r in results] == [2, 2]
    same(here, first.folder)
    same(here, second.folder)
    again = sync(here, names)
    assert [(good(r).fetched, r.unchanged) for r in again] == [([], 2), ([], 2)]
    shards(first.folder, array + 1, 4)  # all four: two have the names of the second cluster's
    assert "has the name of a shard from tensor02" in str(one(here, names[:1]).problem)


class Watcher(threading.Thread):
    """Looks for a secret in the command line and environment of every process."""

    def __init__(self, secret: str):
        super().__init__(daemon=True)
        self.secret, self.found, self.over = secret.encode(), set(), threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self.over.is_set():
            for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
                try:
                    raw = Path(path).read_bytes()
                except OSError:
                    continue
                self.seen.add(raw.split(b"\0")[0])
                if self.secret in raw and int(path.split("/")[2]) != os.getpid():
                    self.found.add(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc to look at processes")
def test_the_password_stands_in_no_process_no_output_and_no_file(cluster, here, tmp_path, command):  # noqa: F811
    there = cluster("tensor02", SECRET)
    shards(there.folder, vectors(2000, 256), 2)
    path = there.credentials(tmp_path / "cred")
    watcher = Watcher(SECRET)
    watcher.start()
    try:
        words = ["--sync-only", "--clusters", "tensor02", "--embeddings-dir", here]
        words += ["--credentials-dir", path.parent]
        done = command("sync_and_merge_embeddings.py", *words, env={"TANDEM_DEBUG": "1"})
        shutil.rmtree(here)
        path.write_text(path.read_text().replace("2222", "2222"))
        there.credentials(tmp_path / "cred", password="wrong " + SECRET)
        refused = command("sync_and_merge_embeddings.py", *words, env={"TANDEM_DEBUG": "1"})
    finally:
        watcher.over.set()
        watcher.join()
    assert done.returncode == 0, done.stderr
    assert refused.returncode == 1 and "it refused the login" in refused.stdout
    assert "check username and password or key_file in tensor02.credentials" in refused.stdout
    for text in (done.stdout, done.stderr, refused.stdout, refused.stderr):
        assert SECRET not in text
    assert any(b"ssh" in name for name in watcher.seen)  # it did look at them
    assert watcher.found == set()
    for left in [*here.rglob("*"), *map(Path, glob.glob("/tmp/td.*/*"))]:
        if left.is_file():
            assert SECRET.encode() not in left.read_bytes(), left


def test_an_unknown_host_key_is_refused_unless_asked_for(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(40), 1)
    known = there.root / "known_hosts"
    key = known.read_text()
    known.write_text("")
    problem = str(one(here, find("tensor01")).problem)
    assert "its host key is not known here yet" in problem and "--accept-new-host-key" in problem
    assert not list(here.glob("*.pkl"))
    good(one(here, find("tensor01"), accept_new=True))
    assert key.split()[2] in known.read_text()
    good(one(here, find("tensor01")))


def test_a_changed_host_key_is_refused_even_when_new_ones_are_accepted(cluster, here):  # noqa: F811
    there, other = cluster("tensor01"), cluster("tensor09")
    shards(there.folder, vectors(40), 1)
    wrong = other.root.joinpath("known_hosts").read_text().split()[1:]
    (there.root / "known_hosts").write_text(" ".join([f"[127.0.0.1]:{there.port}", *wrong]) + "\n")
    problem = str(one(here, find("tensor01"), accept_new=True).problem)
    assert "its host key is not the one this machine knows" in problem
    assert not list(here.glob("*.pkl"))


def test_a_cluster_that_is_down_does_not_stop_the_others(cluster, here):  # noqa: F811
    first, second = cluster("tensor01"), cluster("tensor02")
    shards(first.folder, vectors(40), 2)
    second.stop()
    results = sync(here, find("tensor01", "tensor02", "nobody.invalid"))
    assert len(good(results[0]).fetched) == 2
    same(here, first.folder)
    assert "tensor02: nothing listens on its ssh port" in str(results[1].problem)
    assert "nobody.invalid: no such name" in str(results[2].problem)


def test_a_cluster_without_the_folder_or_without_shards_is_named(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    assert "no file matches cluster*_gpu*.pkl" in str(one(here, find("tensor01")).problem)
    found = credentials.find("tensor01", Path("/nowhere"), "elsewhere")
    assert "tensor01: there is no folder elsewhere" in str(one(here, [found]).problem)
    shards(there.folder, vectors(40), 1)
    assert len(good(one(here, find("tensor01"), pattern="cluster[0-9]_*.pkl")).fetched) == 1


@pytest.mark.parametrize("missing", ["there", "here"])
def test_without_rsync_on_one_side_the_shards_still_come(cluster, here, monkeypatch, missing):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(900, 64), 6)
    if missing == "there":
        there.tools(without="rsync")
    else:
        monkeypatch.setenv("RSYNC", "/nowhere/rsync")
    by_rsync = []
    plain = ClusterTransfer.by_rsync
    monkeypatch.setattr(ClusterTransfer, "by_rsync", lambda *a: (by_rsync.append(1), plain(*a))[1])
    assert len(good(one(here, find("tensor01"))).fetched) == 6
    same(here, there.folder)
    assert by_rsync == []
    assert (here / "cluster1_gpu0.pkl").stat().st_mtime == int(
        (there.folder / "cluster1_gpu0.pkl").stat().st_mtime
    )
    assert good(one(here, find("tensor01"))).unchanged == 6


def test_a_link_to_a_shard_and_a_noisy_login_do_no_harm(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    shard(there.home / "elsewhere.pkl", vectors(10), 0)
    (there.folder / "cluster1_gpu0.pkl").symlink_to("../../elsewhere.pkl")
    shard(there.folder / "cluster1_gpu1.pkl", vectors(10), 10)
    (there.root / "env").write_text("echo Welcome to tensor01; echo file 1 2 x >&2\n")
    there.tools()
    with open(there.root / "env", "a") as f:
        f.write('case "$SSH_ORIGINAL_COMMAND" in sh) echo "Welcome to tensor01" ;; esac\n')
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    same(here, there.folder)
    assert not (here / "cluster1_gpu0.pkl").is_symlink()


def test_a_login_without_a_shell_says_so(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    (there.root / "env").write_text("echo 'This service allows sftp connections only.'; exit 1\n")
    problem = str(one(here, find("tensor01")).problem)
    assert "tensor01: no connection (This service allows sftp connections only.)" in problem


def test_names_that_a_shell_would_run_are_refused(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(40), 1)
    (there.folder / "cluster1_gpu$(touch ran).pkl").write_bytes(b"x")
    assert "cannot be fetched safely" in str(one(here, find("tensor01")).problem)
    assert not list(there.home.rglob("ran")) and not list(here.rglob("ran"))
    with pytest.raises(console.Misuse, match="cannot be passed on safely"):
        cluster_fetch.sync(find("tensor01"), cluster_fetch.FetchOptions(here, "$(touch ran)*"))


def test_what_the_producer_listed_is_compared_byte_for_byte(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    paths = shards(there.folder, vectors(90), 3)
    write_manifest.write(str(there.folder), "cluster*_gpu*.pkl")
    good(one(here, find("tensor01")))
    kept = here / "tensor01.shards.manifest.json"
    assert kept.read_bytes() == (there.folder / "shards.manifest.json").read_bytes()
    # Changed behind the manifest's back, size and time as before: a bad disk.
    stat, raw = paths[1].stat(), bytearray(paths[1].read_bytes())
    raw[len(raw) // 2] ^= 4
    paths[1].write_bytes(raw)
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shutil.rmtree(here)
    result = one(here, find("tensor01"))
    assert "cluster1_gpu1.pkl is not what its producer wrote (SHA-256)" in str(result.problem)
    assert not list(here.glob("*.pkl"))
    # Listed as it is now: fetched again although size and time are the same.
    os.utime(paths[1])
    write_manifest.write(str(there.folder), "cluster*_gpu*.pkl")
    assert len(good(one(here, find("tensor01"))).fetched) == 3
    shard(there.folder / "cluster1_gpu7.pkl", vectors(5), 90)
    problem = str(one(here, find("tensor01")).problem)
    assert "cluster1_gpu7.pkl is not in its producer's manifest: still being written?" in problem
    (there.folder / "cluster1_gpu7.pkl").unlink()
    paths[0].write_bytes(paths[0].read_bytes() + b"x")
    assert "in its producer's manifest: still being written?" in str(
        one(here, find("tensor01")).problem
    )
    paths[0].unlink()
    assert "is in its manifest and is missing there" in str(one(here, find("tensor01")).problem)


def test_a_manifest_that_changed_brings_the_file_again_whatever_its_time_says(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(30), 1)
    write_manifest.write(str(there.folder), "cluster*_gpu*.pkl")
    good(one(here, find("tensor01")))
    stat = path.stat()
    shards(there.folder, vectors(30, seed=1), 1)
    (there.folder / "shards.manifest.json").unlink()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    write_manifest.write(str(there.folder), "cluster*_gpu*.pkl")
    assert good(one(here, find("tensor01"))).fetched == ["cluster1_gpu0.pkl"]
    same(here, there.folder)


@pytest.mark.parametrize("rsync", [True, False])
def test_a_shard_that_is_still_being_written_is_noticed(cluster, here, monkeypatch, rsync):  # noqa: F811
    there = cluster("tensor01")
    first, second = shards(there.folder, vectors(90), 2)
    if not rsync:
        there.tools(without="rsync")
    plain = ClusterLink.fetch

    async def write_meanwhile(self, files, into):
        await plain(self, files, into)
        with open(second, "ab") as f:
            f.write(b"more")

    monkeypatch.setattr(ClusterLink, "fetch", write_meanwhile)
    result = one(here, find("tensor01"))
    assert "cluster1_gpu1.pkl is still being written" in str(result.problem)
    assert not list(here.glob("*.pkl"))
    monkeypatch.setattr(ClusterLink, "fetch", plain)
    problem = str(one(here, find("tensor01")).problem)  # quiet now, but no whole pickle
    assert "tensor01: cluster1_gpu1.pkl: not readable" in problem
    shards(there.folder, vectors(90), 2)
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    same(here, there.folder)


def test_an_unfinished_shard_without_a_manifest_is_noticed_by_its_end(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    first, _ = shards(there.folder, vectors(90), 2)
    first.write_bytes(first.read_bytes()[:1500])
    problem = str(one(here, find("tensor01")).problem)
    assert "tensor01: cluster1_gpu0.pkl: not readable" in problem and "not whole" in problem
    assert not list(here.glob("*.pkl"))


def test_a_connection_that_breaks_is_taken_up_again(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(4000, 256), 2)
    real = shutil.which("rsync")
    once = f"""
cut() {{
  dd bs=65536 count=12 2>/dev/null
  pid=$1
  while [ "$pid" -gt 1 ]; do
    case $(ps -o args= -p "$pid") in sshd:*) kill -9 "$pid"; return ;; esac
    pid=$(ps -o ppid= -p "$pid"); pid=$((pid))
  done
}}
if mkdir "$HOME/broke" 2>/dev/null; then {real} "$@" | cut $PPID; fi
exec {real} "$@"
"""
    there.tools(rsync=once)
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    assert (there.home / "broke").is_dir()
    same(here, there.folder)


def test_a_cluster_that_breaks_off_every_time_is_given_up(cluster, here, capsys):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(40), 1)
    there.tools(rsync="exit 1")
    problem = str(one(here, find("tensor01")).problem)
    assert problem.startswith("tensor01: ") and "\n" not in problem
    assert "try 5 of 5" in capsys.readouterr().err
    assert not list(here.glob("*.pkl"))


SLOW = """
if [ ! -e "$HOME/fast" ]; then
  {real} "$@" | (head -c 300000; while [ -e "$HOME" ] && [ ! -e "$HOME/fast" ]; do sleep 0.1; done)
  exit 0
fi
exec {real} "$@"
"""


def start(words: list, here: Path) -> subprocess.Popen:
    base = [sys.executable, ROOT / "scripts/sync_and_merge_embeddings.py", "--sync-only"]
    return subprocess.Popen(
        [*base, "--embeddings-dir", here, "--remote-dir", SHARDS, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_sync_that_was_killed_goes_on_where_it_stopped(cluster, here, how):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(1000, 256), 1)
    there.tools(without="rsync", tail=SLOW.format(real=shutil.which("tail")))
    process = start(["--clusters", "tensor01"], here)
    try:
        wait_until(lambda: [p for p in here.rglob("*.part") if p.stat().st_size >= 290_000])
        process.send_signal(getattr(signal, how))
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[how], stderr
    words = ("Traceback", "asyncio", "Exception", "Task ", "coroutine", "never")
    assert not [word for word in words if word in stderr]
    if how != "SIGKILL":
        assert stderr.splitlines()[-1] == "interrupted; run it again"
    assert not list(here.glob("*.pkl"))
    (part,) = here.rglob("*.part")
    had = part.stat().st_size
    (there.home / "fast").touch()
    asked = there.home / "asked"
    there.tools(without="rsync", tail=f'echo "$@" >>{asked}; exec {shutil.which("tail")} "$@"')
    assert good(one(here, find("tensor01"))).fetched == [path.name]
    assert asked.read_text().split()[:2] == ["-c", f"+{had + 1}"]
    same(here, there.folder)
    if how != "SIGKILL":
        assert not glob.glob(f"/tmp/td.{process.pid}*")


def test_transfers_that_outlive_a_killed_sync_keep_the_next_one_waiting(
    cluster,  # noqa: F811
    here,
    monkeypatch,
):
    there = cluster("tensor01")
    shards(there.folder, vectors(1000, 256), 1)
    wait = 'while [ -e "$HOME" ] && [ ! -e "$HOME/fast" ]; do sleep 0.1; done'
    there.tools(rsync=f': >"$HOME/begun"; {wait}; exec {shutil.which("rsync")} "$@"')
    process = start(["--clusters", "tensor01"], here)
    wait_until((there.home / "begun").exists)
    process.kill()
    process.communicate()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 0)
    with pytest.raises(console.Problem, match="another sync is going on"):
        sync(here, find("tensor01"))
    (there.home / "fast").touch()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 60)
    good(one(here, find("tensor01")))
    same(here, there.folder)


def test_a_resumed_part_that_differs_is_fetched_from_the_beginning(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(300, 64), 1)
    there.tools(without="rsync")
    stat = path.stat()
    part = here / f".incoming/tensor01/{path.name}.{stat.st_size}-{int(stat.st_mtime)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the same" * 50)
    assert "its first part differs" in str(one(here, find("tensor01")).problem)
    good(one(here, find("tensor01")))
    same(here, there.folder)


def test_what_a_killed_rsync_left_is_used_again(cluster, here, monkeypatch):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(3000, 256), 1)
    incoming = here / ".incoming" / "tensor01"
    incoming.mkdir(parents=True)
    raw = path.read_bytes()
    (incoming / f".{path.name}.aB3xYz").write_bytes(raw[:2_000_000])
    (incoming / ".gone.pkl.aB3xYz").write_bytes(b"of a shard that is no more")
    sizes = []
    plain = ClusterLink.fetch

    async def look(self, files, into):
        sizes.extend(p.stat().st_size for p in (into / ".rsync-partial").iterdir())
        await plain(self, files, into)

    monkeypatch.setattr(ClusterLink, "fetch", look)
    good(one(here, find("tensor01")))
    assert sizes == [2_000_000]
    same(here, there.folder)


def test_a_shard_that_may_not_be_read_is_said_to_be_so(cluster, here):  # noqa: F811
    there = cluster("tensor01", "a password")  # an account of its own, which is not root
    shards(there.folder, vectors(30), 2)[0].chmod(0)
    found = [credentials.find("tensor01", there.credentials(here.parent / ".credentials").parent)]
    assert "tensor01: not readable there" in str(one(here, found).problem)
    there.folder.chmod(0)
    assert "tensor01: this user may not enter the folder" in str(one(here, found).problem)
    there.folder.chmod(0o755)


def test_a_name_that_was_not_asked_for_is_not_fetched(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(30), 1)
    path.with_name("wikipedia_merged.pkl").write_bytes(path.read_bytes())
    stat = shutil.which("stat")
    there.tools(stat=f"{stat} \"$@\"; {stat} -L -c 'file %s %Y %n' wikipedia_merged.pkl")
    problem = str(one(here, find("tensor01")).problem)
    assert "'wikipedia_merged.pkl' cannot be fetched safely" in problem
    assert not list(here.glob("*.pkl"))


def test_more_shards_than_transfers_are_shared_out(cluster, here, monkeypatch):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(900), 9)
    lists = []
    plain = ClusterTransfer.by_rsync
    monkeypatch.setattr(
        ClusterTransfer, "by_rsync", lambda self, tool, names, into: (
            lists.append(names), plain(self, tool, names, into))[1]
    )  # fmt: skip
    assert len(good(one(here, find("tensor01"))).fetched) == 9
    assert len(lists) == PARALLEL and sorted(map(len, lists)) == [2, 2, 2, 3]
    logins = (there.root / "sshd.log").read_text().count("Accepted")
    assert logins == 1  # one master carries them all


def test_a_folder_stands_in_for_a_cluster(tmp_path, here):
    there = tmp_path / "fake" / SHARDS
    shards(there, vectors(90), 3)
    names = find(f"{tmp_path}/fake")
    assert len(good(one(here, names)).fetched) == 3
    same(here, there)
    assert good(one(here, names)).unchanged == 3
    shutil.rmtree(there)
    assert "there is no folder" in str(one(here, names).problem)


def test_too_little_space_is_found_before_the_transfer(tmp_path, here, monkeypatch):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    monkeypatch.setattr(
        cluster_fetch.shutil, "disk_usage", lambda path: type("U", (), {"free": 10})
    )
    problem = str(one(here, find(f"{tmp_path}/fake")).problem)
    assert "to fetch and 10 B free" in problem


def test_two_syncs_at_once_do_not_mix(tmp_path, here, monkeypatch):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    here.mkdir()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 0)
    with (
        cluster_fetch.locked(here),
        pytest.raises(console.Problem, match="another sync is going on"),
    ):
        sync(here, find(f"{tmp_path}/fake"))
    good(one(here, find(f"{tmp_path}/fake")))


def test_a_broken_state_file_only_means_fetching_again(tmp_path, here):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    names = find(f"{tmp_path}/fake")
    good(one(here, names))
    for broken in ("{", "[]", "", json.dumps({"cluster1_gpu0.pkl": 3})):
        (here / sync_record.RECORD).write_text(broken)
        assert len(good(one(here, names)).fetched) >= 1


@pytest.mark.parametrize("tool", ["rsync", "tail"])
def test_a_cluster_that_sends_without_end_is_cut_off(cluster, here, monkeypatch, tool):  # noqa: F811
    there = cluster("tensor01")
    (path,) = shards(there.folder, vectors(1000, 256), 1)
    monkeypatch.setattr(cluster_fetch, "SLACK", 1 << 20)
    if tool == "tail":
        there.tools(without="rsync", tail=f"while cat {path}; do :; done")
        problem = str(one(here, find("tensor01")).problem)
        assert "is still being written, or was cut short" in problem
    else:
        grows = (
            f"for i in 1 2 3 4; do cat {path} {path} >>{path}.more; done; cat {path}.more >{path}"
        )
        there.tools(rsync=f'{grows}; exec {shutil.which("rsync")} "$@"')
        problem = str(one(here, find("tensor01")).problem)
        assert "sends more than" in problem or "is still being written" in problem
    assert not list(here.glob("*.pkl"))


def test_endless_messages_of_a_cluster_fill_neither_memory_nor_disk(cluster, here):  # noqa: F811
    there = cluster("tensor01")
    shards(there.folder, vectors(40), 1)
    there.tools()
    with open(there.root / "env", "a") as f:
        f.write("while echo 0123456789012345678901234567890123456789 >&2; do :; done\n")
    problem = str(one(here, find("tensor01")).problem)
    assert problem.startswith("tensor01: ") and len(problem) < 1000
