"""Which files somebody still writes to: by /proc, or by lsof where there is none."""

from __future__ import annotations

import os
import shutil
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
