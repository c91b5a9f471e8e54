"""The line that shows that something goes on."""

from __future__ import annotations

import itertools
import pty
import subprocess
import sys
from pathlib import Path

from kit import console, moving_line
from support.processes import wait_until

SCRIPTS = Path(moving_line.__file__).parent.parent
PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from kit import console, moving_line
moving_line.FIRST = moving_line.STEP = moving_line.QUIET = 0.01
with moving_line.MovingLine("hashing 3 files") as line:
    while not line.shown:
        time.sleep(0.001)
"""


def test_without_a_terminal_each_line_stands_alone():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SCRIPTS)], capture_output=True, text=True, timeout=20
    )
    assert done.stderr.splitlines()[0] == "hashing 3 files, 0 s"
    assert "\r" not in done.stderr


def test_on_a_terminal_one_line_moves_and_is_gone_at_the_end():
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(SCRIPTS)], stderr=theirs, check=True, timeout=20
        )
        text = terminal.read(4096).decode()
    assert text.startswith("\rhashing 3 files, 0 s\033[K")
    assert text.endswith("\r\033[K")
    assert "\n" not in text


def test_what_ends_at_once_shows_nothing(capsys):
    with moving_line.MovingLine("a moment"):
        pass
    assert capsys.readouterr().err == ""


def test_a_slow_stage_says_how_far_it_is_before_its_next_tenth(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 30.0, 31.0, 60.0, 90.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress(1000, "rows cleaned", "rows") as bar:
        for _ in range(3):
            bar.update(10)
    with console.progress(None, "rows read", "rows") as bar:
        bar.update(7)
    assert capsys.readouterr().err.splitlines() == [
        "rows cleaned: 2 % (20 of 1,000 rows)", "rows read: 7 rows",
    ]  # fmt: skip


def test_on_a_terminal_a_line_takes_the_place_of_the_moving_one():
    ours, theirs = pty.openpty()
    program = PROGRAM + '    console.note("a note")\n'
    with open(ours, "rb", buffering=0) as terminal:
        subprocess.run(
            [sys.executable, "-c", program, str(SCRIPTS)], stderr=theirs, check=True, timeout=20
        )
        text = terminal.read(4096).decode()
    assert "\r\033[Ka note\r\n" in text


def test_of_lines_inside_each_other_the_innermost_shows(capsys, monkeypatch):
    monkeypatch.setattr(moving_line, "STEP", 0.01)
    monkeypatch.setattr(moving_line, "QUIET", 0)
    with moving_line.MovingLine("training"), moving_line.MovingLine("loading") as inner:
        wait_until(lambda: inner.shown)
        shown = capsys.readouterr().err
    assert "loading, 0 s" in shown and "training" not in shown


def test_without_a_terminal_a_line_that_came_anyway_is_enough(capsys, monkeypatch):
    """A fake clock: twelve looks, 10 s apart, and a line of the work before each second one."""
    looks = iter(range(12))

    def wait(_):
        look = next(looks, None)
        if look is not None and look % 2:
            console.note("step")
        return look is None

    monkeypatch.setattr(moving_line.time, "monotonic", itertools.count(0, 10).__next__)
    line = moving_line.MovingLine("training")
    monkeypatch.setattr(line._ended, "wait", wait)
    line._open.append(line)
    line._show()
    line._open.remove(line)
    assert line.shown == 0 and "training" not in capsys.readouterr().err
