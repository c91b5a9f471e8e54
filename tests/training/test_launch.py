"""The processes that --gpus N starts: what they note is the result, the code and the last line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.checkout import ROOT
from training import processes

SCRIPTS = ROOT / "scripts"


def test_the_launcher_gives_the_noted_code_and_prints_the_cause_last(tmp_path, capsys):
    for rank, text in enumerate(("no such rows; make data", "")):
        note = {"code": 2, "text": text, "result": ""}
        (tmp_path / str(rank)).write_text(json.dumps(note))
    assert processes.noted(tmp_path, 1) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("no such rows; make data")


LAUNCHED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from training import processes
print("[Gloo] Ra", end="", flush=True)
print("nk 0 is connected", flush=True)
processes.note_end(0, result="runs/new" if os.environ["RANK"] == "0" else "")
"""
LAUNCHER = """
import sys
sys.path.insert(0, sys.argv[1])
from training import processes
sys.exit(processes.launch("2", sys.argv[2], [sys.argv[1]]))
"""


@pytest.mark.remote_env
@pytest.mark.slow
def test_stdout_of_launched_processes_is_the_noted_result_whatever_they_write(tmp_path):
    """Several processes write gloo's lines in pieces, between each other."""
    (tmp_path / "trainer.py").write_text(LAUNCHED)
    words = [sys.executable, "-c", LAUNCHER, str(SCRIPTS), str(tmp_path / "trainer.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "runs/new\n"), done.stderr
    assert "is connected" in done.stderr


@pytest.mark.remote_env
@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("processes.note_end(2, 'no rows; make data'); sys.exit(2)", 2, "no rows; make data"),
        ("os.kill(os.getpid(), 9)", 1, "process 2 was ended by SIGKILL; SIGKILL is often"),
        ("sys.exit(7)", 1, "process 2 ended with exit code 7; its lines are above"),
    ],
)
def test_a_process_that_fails_is_one_line_without_torchruns_traceback(end, code, last, tmp_path):
    trainer = LAUNCHED.replace("print(", f"if os.environ['RANK'] == '1':\n    {end}\nprint(", 1)
    (tmp_path / "trainer.py").write_text(trainer)
    words = [sys.executable, "-c", LAUNCHER, str(SCRIPTS), str(tmp_path / "trainer.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert last in done.stderr.splitlines()[-1]
