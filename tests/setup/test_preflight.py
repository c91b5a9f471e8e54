"""setup/preflight.py says what would stop an environment from being built before it is built."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from setup import preflight
from support.checkout import ROOT


def failed(checks) -> dict[str, str]:
    return {c.name: c.found for c in checks if c.status == "fail"}


def test_an_ordinary_checkout_is_good_and_nothing_is_left_there(tmp_path):
    assert failed(preflight.look(tmp_path, "local")) == {}
    assert os.listdir(tmp_path / ".envs") == []


def test_a_disk_without_symbolic_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(preflight.os, "symlink", refuse)
    assert "no symbolic links here" in failed(preflight.look(tmp_path, "local"))["links"]


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(preflight.fcntl, "flock", refuse)
    checks = {c.name: c.status for c in preflight.look(tmp_path, "local")}
    assert checks["locks"] == "warn"


@pytest.mark.parametrize("env", ["local", "remote"])
def test_too_few_inodes_is_said_as_such(env, tmp_path, monkeypatch):
    facts = os.statvfs(tmp_path)
    few = os.statvfs_result([*facts[:7], 1000, *facts[8:]])
    monkeypatch.setattr(preflight.os, "statvfs", lambda path: few)
    text = failed(preflight.look(tmp_path, env))["inodes"]
    assert text.startswith("1,000 files can still be made")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_bytes_and_inodes(code, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(preflight.tempfile, "TemporaryDirectory", refuse)
    (check,) = [c for c in preflight.look(tmp_path, "local") if c.status == "fail"]
    assert "df -h" in check.fix and "df -i" in check.fix


def test_folders_of_root_are_given_back_by_the_command_it_names(tmp_path, monkeypatch):
    (tmp_path / ".envs/local-0123").mkdir(parents=True)
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: "local-" not in str(path))
    (check,) = [c for c in preflight.look(tmp_path, "local") if c.status == "fail"]
    assert check.fix == f"sudo chown -R $(id -un) {tmp_path}/.envs"


@pytest.mark.parametrize("name", ["TMPDIR", "UV_CACHE_DIR"])
def test_a_variable_that_names_no_folder_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(name, str(tmp_path / "file"))
    (check,) = preflight.check_variables()
    assert check.name == name and f"unset {name}" in check.fix


@pytest.mark.parametrize(
    ("env", "machine", "libc", "name"),
    [
        ("remote", "x86_64", ("glibc", "2.17"), "glibc"),
        ("remote", "ppc64le", ("glibc", "2.36"), "processor"),
        ("local", "riscv64", ("glibc", "2.36"), "processor"),
        ("local", "x86_64", ("glibc", "2.17"), None),
        ("remote", "aarch64", ("glibc", "2.28"), None),
    ],
)
def test_systems_that_packages_have_no_build_for(env, machine, libc, name, monkeypatch):
    monkeypatch.setattr(preflight.sys, "platform", "linux")
    monkeypatch.setattr(preflight.platform, "machine", lambda: machine)
    monkeypatch.setattr(preflight.platform, "libc_ver", lambda: libc)
    assert [c.name for c in preflight.check_system(env)] == ([name] if name else [])


def test_as_a_command_it_prints_nothing_where_all_is_good():
    words = [sys.executable, ROOT / "scripts/setup/preflight.py", "local"]
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
