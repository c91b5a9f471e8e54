"""setup/verify_environment.py and setup/nf4_forward.py, on small packages and on the real ones."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from setup import package_workers
from setup.installed_packages import SEAL, RecordedFile, modules, site_packages
from support.checkout import ROOT
from support.processes import wait_until

pytestmark = pytest.mark.slow  # a command in a copy of the kit, each time

SCRIPT = ROOT / "scripts" / "setup" / "verify_environment.py"


def add_package(site: Path, name: str, files: dict[str, str], installer: str = "uv") -> None:
    """Install `files` into `site` as a wheel would: dist-info, RECORD with hashes."""
    info = f"{name}-1.0.dist-info"
    files = files | {f"{info}/INSTALLER": installer, f"{info}/METADATA": ""}
    rows = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f'"{path}",sha256={digest.decode()},{len(text)}')
    rows.append(f"{info}/RECORD,,")
    (site / info / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment with one good package, `good`; bin/python is this test's own."""
    venv = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    add_package(site_packages(venv), "good", {"good/__init__.py": "", "good/more.py": ""})
    return venv


def look(env: Path, *options: object, after: Sequence[str] = ()) -> tuple[int, dict]:
    """(exit code, the report) of the command run as the set-up runs it."""
    words = [env / "bin/python", "-I", "-S", SCRIPT, "--json", *options, env, *after]
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_a_good_environment_passes_and_is_counted(env):
    code, report = look(env)
    assert code == 0
    assert [c["found"] for c in report["checks"]] == [
        "4 files of 1 packages match",
        "1 modules import",
    ]


def test_a_changed_file_is_named_with_its_package(env):
    (site_packages(env) / "good/more.py").write_text("x = 1")
    code, report = look(env, "--no-imports")
    assert code == 1
    assert report["damaged"] == ["good"]
    assert "good/more.py: damaged" in report["checks"][0]["found"]


def test_a_file_that_two_packages_install_is_right_as_either_wrote_it(env):
    """flashinfer-python and torch-c-dlpack-ext both hold a build_backend.py."""
    site = site_packages(env)
    for name in ("one", "two"):
        add_package(site, name, {"build_backend.py": f"by = {name!r}", f"{name}.py": ""})
    code, report = look(env)
    assert code == 0, report
    (site / "build_backend.py").write_text("by = None")
    code, report = look(env)
    assert code == 1 and {"one", "two"} == set(report["damaged"])


def test_a_missing_file_is_told_from_a_changed_one(env):
    (site_packages(env) / "good/more.py").unlink()
    _, report = look(env, "--no-imports")
    assert "good/more.py: missing" in report["checks"][0]["found"]


@pytest.mark.parametrize("damage", ["", "a,b\n\x00", "good/more.py,sha256=x,notanumber\n"])
def test_a_record_that_lost_its_contents_is_damage(env, damage):
    assert look(env, "--no-imports", "--seal")[0] == 0
    (site_packages(env) / "good-1.0.dist-info/RECORD").write_text(damage)
    code, report = look(env, "--no-imports")
    assert code == 1 and report["damaged"] == ["good"]


def test_a_package_that_vanished_whole_is_missed(env):
    look(env, "--no-imports", "--seal")
    site = site_packages(env)
    for path in sorted(site.glob("good*/*"), reverse=True):
        path.unlink()
    for folder in site.glob("good*"):
        folder.rmdir()
    code, report = look(env, "--no-imports")
    assert code == 1 and "good-1.0.dist-info: missing" in report["checks"][0]["found"]


def test_a_broken_environment_is_not_sealed(env):
    (site_packages(env) / "good/more.py").unlink()
    look(env, "--no-imports", "--seal")
    assert not (env / SEAL).exists()


def test_bytecode_that_a_wheel_ships_may_be_rewritten(env):
    add_package(site_packages(env), "old", {"old/__pycache__/a.cpython-310.pyc": "x"})
    (site_packages(env) / "old/__pycache__/a.cpython-310.pyc").unlink()
    assert look(env, "--no-imports")[0] == 0


def test_an_import_error_is_reported_and_is_not_damage(env):
    add_package(site_packages(env), "bad", {"bad.py": "raise OSError('first\\nsecond')"})
    code, report = look(env)
    assert code == 1 and report["damaged"] == []
    assert {"name": "import bad", "found": "OSError: first second"}.items() <= report["checks"][
        1
    ].items()


def test_a_worker_that_dies_costs_one_module_and_no_other(env):
    site = site_packages(env)
    add_package(site, "crash", {"crash.py": "import os; os.kill(os.getpid(), 11)"})
    code, report = look(env)
    failed = [c for c in report["checks"] if c["status"] == "fail"]
    assert code == 1 and [c["name"] for c in failed] == ["import crash"]
    assert "exit status -11" in failed[0]["found"]


def test_what_an_import_prints_or_reads_does_not_disturb_the_report(env):
    noisy = "import sys; print('noise'); print('{}'); sys.stdin.close() if False else None"
    add_package(site_packages(env), "noisy", {"noisy.py": noisy})
    assert look(env)[0] == 0


def test_namespace_packages_are_imported_below_their_common_folder(env):
    files = {"space/one/__init__.py": "", "space/two/deep/__init__.py": "", "_c.abi3.so": ""}
    rows = [RecordedFile(path, "x", 0) for path in files]
    assert modules(rows) == ["_c", "space.one", "space.two.deep"]


def test_scripts_tests_and_dashed_folders_are_no_modules():
    paths = ["../../bin/tool.py", "tests/__init__.py", "a-b/__init__.py", "x-1.dist-info/RECORD"]
    assert modules([RecordedFile(path, "x", 0) for path in paths]) == []


def with_lock(env: Path, text: str) -> None:
    (env / ".tandem").mkdir(exist_ok=True)
    (env / ".tandem/lock.txt").write_text(text)


def test_an_environment_without_its_packages_is_not_verified(env):
    with_lock(env, "good==1.0 \\\n    --hash=x\nabsent==2.0 \\\n    --hash=x\n")
    code, report = look(env, "--no-imports")
    assert code == 1 and report["damaged"] == ["absent"]
    assert report["checks"][0]["found"] == "1 of 2 pins differ: absent: not there, 2.0 wanted"


def test_another_version_than_the_locks_is_damage(env):
    with_lock(env, "good==1.1 \\\n    --hash=x\n")
    code, report = look(env, "--no-imports")
    assert code == 1 and "good: 1.0, 1.1 wanted" in report["checks"][0]["found"]


@pytest.mark.parametrize("installer", ["uv", "conda"])
def test_what_the_lock_does_not_name_keeps_a_new_environment_from_being_sealed(env, installer):
    with_lock(env, "good==1.0 \\\n    --hash=x\n")
    add_package(site_packages(env), "uninvited", {"uninvited.py": ""}, installer)
    code, report = look(env, "--no-imports", "--seal")
    assert code == 1 and not (env / SEAL).exists()
    assert report["checks"][0]["found"] == "uninvited installed, and not in the lock"
    code, report = look(env, "--no-imports")  # added later, by the user
    assert code == 0 and report["checks"][0]["found"].endswith("; beside them uninvited")


def test_only_what_changed_since_is_read_and_the_inode_tells(env):
    site, stamp = site_packages(env), env / "stamp"
    stamp.touch()
    old, path = os.stat(site / "good/more.py"), site / "good/more.py"
    path.write_text("x")  # another byte count is seen whatever the times say
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.utime(stamp, (2e9, 2e9))
    assert look(env, "--no-imports", "--unchanged-since", stamp)[0] == 1
    path.write_text("")
    assert look(env, "--no-imports", "--unchanged-since", stamp)[0] == 0
    (site / "good/__init__.py").write_text("#")
    add_package(site, "same", {"same.py": "ab"})
    (site / "same.py").write_text("ba")
    os.utime(site / "same.py", ns=(old.st_atime_ns, old.st_mtime_ns))
    os.utime(stamp, (1e9, 1e9))
    code, report = look(env, "--no-imports", "--unchanged-since", stamp)
    assert code == 1 and report["damaged"] == ["good", "same"]


def test_a_package_that_changes_after_it_was_compared_is_compared_again(env):
    site = site_packages(env)
    checker = package_workers.PackageChecker(site, imports=False)

    rounds = iter((True, False))

    def filling():
        more = next(rounds)
        if not more:  # one round has asked for the package by now
            wait_until(lambda: "1 packages" in checker.state())
            record = site / "good-1.0.dist-info/RECORD"
            text = record.read_text()
            record.unlink()
            (site / "good/more.py").write_text("x")
            record.write_text(text)
        return more

    checker.follow(filling)
    assert list(checker.finish().files) == ["good"]


MANY_FILES = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from setup import package_workers
files = [open(os.devnull) for _ in range(300)]
findings = package_workers.PackageChecker(pathlib.Path(sys.argv[2]), imports=False).finish()
sys.exit(not findings.file_count or bool(findings.files))
"""


def test_workers_end_in_a_process_that_has_many_files_open(env):
    words = [sys.executable, "-c", MANY_FILES, ROOT / "scripts", site_packages(env)]
    assert subprocess.run([*map(str, words)], timeout=60).returncode == 0


def test_a_package_is_complete_when_its_record_was_written_after_its_installer(env):
    info = site_packages(env) / "good-1.0.dist-info"
    os.utime(info / "INSTALLER", (2e9, 2e9))
    assert not package_workers.is_complete(info)  # this RECORD came with the wheel
    os.utime(info / "RECORD", (2e9, 2e9))
    assert package_workers.is_complete(info)


def test_a_command_that_fails_is_not_called_damage(env):
    words = [env / "bin/python", "-I", "-S", SCRIPT, env, "--", "/bin/sh", "-c", "exit 1"]
    assert subprocess.run([*map(str, words)], capture_output=True).returncode == 3


def test_what_conda_installed_is_left_to_conda(env):
    site = site_packages(env)
    add_package(site, "setuptools", {"setuptools/__init__.py": "raise OSError"}, "conda")
    assert look(env)[0] == 0


def test_an_environment_without_packages_is_one_line(tmp_path):
    words = [sys.executable, SCRIPT, tmp_path]
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.endswith("has no site-packages; run the set-up again\n")


@pytest.mark.slow
def test_this_environment_is_as_installed():
    env = Path(sys.prefix)
    words = [sys.executable, "-I", "-S", SCRIPT, "--no-imports", env]
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.remote_env
def test_one_nf4_forward_runs_on_whatever_device_there_is():
    words = [sys.executable, ROOT / "scripts/setup/nf4_forward.py"]
    ended = subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "NF4 forward" in ended.stdout and "off float32" in ended.stdout


def lock_names(name: str) -> dict[str, str]:
    """{package: version} of a committed lock."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line.split(" ")[0] for line in lines if line[:1].isalnum() and "==" in line]
    return dict(pin.split("==") for pin in pins)


def test_the_locks_name_no_index_and_hash_every_package():
    for name in ("requirements-local.txt", "requirements-remote.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text and "find-links" not in text
        blocks = [b for b in text.replace("\\\n", " ").splitlines() if b[:1].isalnum()]
        assert len(blocks) > 100
        assert all("--hash=sha256:" in b for b in blocks)


def test_both_locks_agree_on_every_package_they_share():
    local, remote = lock_names("requirements-local.txt"), lock_names("requirements-remote.txt")
    differ = {n: (local[n], remote[n]) for n in local.keys() & remote.keys()}
    assert {n: pair for n, pair in differ.items() if pair[0] != pair[1]} == {}


def test_every_pin_of_the_sources_is_in_its_lock_and_says_why():
    for which in ("local", "remote"):
        lock = lock_names(f"requirements-{which}.txt")
        source = (ROOT / f"configs/requirements-{which}.in").read_text(encoding="utf-8")
        for line in source.splitlines():
            if "==" not in line or line.startswith("#"):
                continue
            pin, _, why = line.partition("#")
            name, version = pin.strip().split("==")
            assert lock[name.lower().replace("_", "-")] == version, line
            assert why.strip(), f"{which}: {name} is pinned without a reason"


@pytest.mark.parametrize("which", ["local", "remote"])
def test_a_lock_begins_with_each_exact_pin_and_its_reason(which):
    text = (ROOT / f"requirements-{which}.txt").read_text(encoding="utf-8")
    header = text.partition("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "make lock" in header and f"configs/requirements-{which}.in" in header
    source = (ROOT / f"configs/requirements-{which}.in").read_text(encoding="utf-8")
    for line in source.splitlines():
        pin, _, why = line.partition("#")
        if "==" in pin:
            row = next(row for row in header.splitlines() if row[1:].split()[:1] == [pin.strip()])
            assert why.strip() in row
