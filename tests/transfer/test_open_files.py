"""Which files somebody still writes to: by /proc, or by lsof where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transfer import open_files


def is_written(path: Path) -> bool:
    return path.stat().st_ino in open_files.written_inodes()


def check_open_and_closed(path: Path) -> None:
    path.write_text("x")
    assert not is_written(path)
    with path.open():
        assert not is_written(path)
    with path.open("a"):
        path.rename(path.with_name("moved"))
        assert is_written(path.with_name("moved"))
    assert not is_written(path.with_name("moved"))


def test_a_file_that_is_open_for_writing_is_seen_also_after_a_rename(tmp_path):
    check_open_and_closed(tmp_path / "f")


# ctypes, since Python's own mmap keeps a descriptor
MAPS = """
import ctypes, os, sys
c = ctypes.CDLL(None)
c.mmap.restype, size = ctypes.c_void_p, ctypes.c_size_t
c.mmap.argtypes = [ctypes.c_void_p, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.open(sys.argv[1], os.O_RDWR)
assert c.mmap(None, 1, 3, int(sys.argv[2]), fd, 0) not in (None, ctypes.c_void_p(-1).value)
os.close(fd)
print("mapped", flush=True)
sys.stdin.read()
"""
SHARED, PRIVATE = "1", "2"


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="lsof names no such files")
@pytest.mark.parametrize(("kind", "written"), [(SHARED, True), (PRIVATE, False)])
def test_a_file_in_a_programs_memory_is_seen_also_when_it_was_closed(tmp_path, kind, written):
    (path := tmp_path / "f").write_text("x")
    program = subprocess.Popen([sys.executable, "-I", "-S", "-c", MAPS, str(path), kind],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert program.stdout.readline() == b"mapped\n"
    assert is_written(path) is written
    program.communicate()
    assert not is_written(path)


@pytest.mark.slow
def test_without_proc_lsof_tells(tmp_path, monkeypatch):
    shutil.which("lsof") or pytest.skip("no lsof here")
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda p: p != "/proc/self/fdinfo" and real(p))
    check_open_and_closed(tmp_path / "f")


def test_without_proc_and_lsof_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "isdir", lambda p: False)
    monkeypatch.setattr(
        open_files.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(OSError)
    )
    assert open_files.written_inodes() == set()


@pytest.mark.parametrize("fraction", [9, 10, 2, 0])
def test_a_signature_line_of_any_tool_is_compared_as_exactly_as_it_is_written(tmp_path, fraction):
    path = tmp_path / "f"
    path.write_text("x")
    os.utime(path, ns=(0, 1_700_000_000_120_000_000))
    digits = "1200000000"[:fraction]
    mtime = "1700000000" + (f".{digits}" if digits else "")
    line = f"644 {path.stat().st_ino} 1 {mtime} 1 x"
    assert open_files.is_as_listed(path, line)
    path.write_text("yy")
    assert not open_files.is_as_listed(path, line)
    assert not open_files.is_as_listed(tmp_path / "gone", line)
