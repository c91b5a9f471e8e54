import json
import os
import subprocess
import sys

import pytest

from checks import storage
from support.checkout import ROOT

GB = 1 << 30


@pytest.fixture(autouse=True)
def caches_of_its_own(monkeypatch, tmp_path):
    """Whatever this user's caches hold is not counted, and not in the report."""
    for name in ("HF_HOME", "UV_CACHE_DIR", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.fixture
def small_disk(tmp_path):
    """small_disk("size=64m"): a real file system of that size, or a skip where mount may not."""
    mounted = []

    def make(options: str):
        where = tmp_path / f"disk{len(mounted)}"
        where.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tandem-test", str(where)]
        done = subprocess.run(command, capture_output=True) if sys.platform == "linux" else None
        if done is None or done.returncode:
            pytest.skip("needs root on Linux to mount a small file system")
        mounted.append(where)
        return where

    yield make
    for where in mounted:
        subprocess.run(["umount", str(where)], check=True)


def checks(result) -> dict[str, dict]:
    return {c["name"]: c for c in json.loads(result.stdout)["checks"]}


def test_the_breakdown_has_the_sizes_of_the_specification(command):
    out = command("check_storage.py", "--fail-below", 0, "--warn-below", 0).stdout
    for line in (
        "raw data        150-300 MB",
        "processed data  0.5-1 GB",
        "base model      15 GB",
        "checkpoints     0.5-2 GB",
        "buffer          10-15 GB",
    ):
        assert line in out


def test_each_folder_says_what_it_holds_now(command, tmp_path):
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "a.txt").write_bytes(b"x" * 3_000_000)
    body = json.loads(command("check_storage.py", "--json").stdout)
    row = next(r for r in body["breakdown"] if r["what"] == "raw data")
    assert row["used"] >= 3_000_000
    assert body["use"]["data_raw"]["path"] == str((tmp_path / "data" / "raw").resolve())


def test_brief_gives_the_verdict_and_counts_nothing(command):
    words = ("check_storage.py", "--brief", "--warn-below", 0)
    brief = command(*words, "--fail-below", 0)
    assert brief.returncode == 0 and "needed" not in brief.stdout and "ok" in brief.stdout
    assert command(*words, "--fail-below", 10**6).returncode == 1


def test_below_the_failing_limit_it_exits_1_and_says_how_much_to_free(command, tmp_path):
    result = command("check_storage.py", "--json", "--fail-below", 10**6, "--path", tmp_path)
    assert result.returncode == 1
    (disk,) = (c for c in checks(result).values() if "checkout" in c["found"])
    assert disk["status"] == "fail"
    assert "below 1e+06 GB" in disk["found"]
    assert "du -sh" in disk["fix"] or "has more room" in disk["fix"]


def test_between_the_limits_it_warns_and_exits_0(command, tmp_path):
    result = command(
        "check_storage.py", "--json", "--warn-below", 10**6, "--fail-below", 0, "--path", tmp_path
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["status"] == "warn"


def test_the_default_limits_are_30_and_20_gb_for_checkout_and_model_together(tmp_path):
    folders = {"models": tmp_path}
    assert storage._limits(["checkout", "models"], folders, 0, 30, 20) == (30, 20)


def test_a_model_that_is_already_there_counts_as_room(tmp_path):
    folders = {"models": tmp_path}
    assert storage._limits(["checkout", "models"], folders, 15, 30, 20) == (15, 5)


def test_a_model_on_another_disk_needs_its_room_there(tmp_path):
    folders = {"models": tmp_path}
    assert storage._limits(["checkout"], folders, 0, 30, 20) == (15, 5)
    assert storage._limits(["models"], folders, 0, 30, 20) == (15, 15)


def test_a_full_disk_names_the_one_with_room_and_how_to_use_it(command, small_disk):
    disk = small_disk("size=64m")
    home = os.path.expanduser("~")
    result = command("check_storage.py", "--json", "--path", disk)
    assert result.returncode == 1
    fix = checks(result)[f"disk {disk}"]["fix"]
    assert f"{home} has more room" in fix
    assert f"export HF_HOME={home}/.cache/huggingface UV_CACHE_DIR=" in fix


def test_a_cache_on_a_full_disk_is_moved_by_its_own_variable(command, small_disk):
    disk = small_disk("size=64m")
    result = command("check_storage.py", "--json", env={"HF_HOME": str(disk)})
    check = checks(result)[f"disk {disk}"]
    assert check["status"] == "fail"
    assert "HF cache" in check["found"]
    assert "export HF_HOME=" in check["fix"]


def test_spent_inodes_fail_though_bytes_are_free(command, small_disk):
    disk = small_disk("nr_inodes=50,size=64m")
    result = command("check_storage.py", "--json", "--path", disk, "--fail-below", 0)
    assert checks(result)[f"inodes {disk}"]["status"] == "fail"
    assert result.returncode == 1


def test_a_read_only_disk_fails(command, small_disk):
    disk = small_disk("size=64m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    result = command("check_storage.py", "--json", "--path", disk)
    assert "read-only" in checks(result)["write checkout"]["found"]
    assert result.returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_fails(command, tmp_path):
    tmp_path.chmod(0o555)
    result = command("check_storage.py", "--json", "--path", tmp_path)
    tmp_path.chmod(0o755)
    assert "not writable" in checks(result)["write checkout"]["found"]


def test_the_roomiest_disk_is_chosen_and_the_full_one_is_not(small_disk):
    small, large = small_disk("size=32m"), small_disk("size=96m")
    folders = [str(small), str(large)]
    assert storage.roomiest(1 << 20, "/", folders) == str(large)
    assert storage.roomiest(1 << 20, str(large), folders) == str(small)
    assert storage.roomiest(GB, "/", folders) == ""


def test_two_links_to_one_file_count_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    once = storage.used(tmp_path)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert storage.used(tmp_path) - once < 100_000


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, os.path.expanduser("~/.cache/huggingface/hub")),
    ],
)
def test_the_hub_cache_is_where_huggingface_hub_puts_it(variables, expected):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    code = "from checks import storage; print(storage.hf_cache())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | variables | {"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == expected


def test_a_path_that_is_no_folder_is_a_misuse(command, tmp_path):
    result = command("check_storage.py", "--path", tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(("name", "variable"), storage.VARIABLES.items())
def test_a_cache_in_a_home_that_cannot_be_written_moves_by_its_variable(
    name, variable, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    mount = storage.Mount("/", 1 << 40, 1 << 40, None, False)
    (check,) = storage._writable(name, tmp_path, mount)
    assert check.status == "warn" and check.fix.startswith(f"export {variable}=")
