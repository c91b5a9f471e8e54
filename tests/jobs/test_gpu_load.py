"""How busy a job's GPUs are: what nvidia-smi prints, in words, and in the table of jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from jobs import gpu_load, life
from jobs.contract import Job
from support.checkout import ROOT
from support.processes import wait_until


@pytest.mark.parametrize(
    ("text", "visible", "gpus", "words"),
    [
        ("87, 21504, 81920\n", None, 0, "87 % 21/80 GB"),
        ("90, 40960, 81920\n92, 61440, 81920\n", None, 0, "2 x 91 % 60/80 GB"),
        ("90, 40960, 81920\n92, 61440, 81920\n", None, 1, "90 % 40/80 GB"),
        ("90, 40960, 81920\n92, 61440, 81920\n", "1", 0, "92 % 60/80 GB"),
        ("90, 40960, 81920\n", "GPU-1234", 0, "90 % 40/80 GB"),
        ("90, 40960, 81920\n", "7", 0, "90 % 40/80 GB"),
        ("[N/A], 40960, 81920\n", None, 0, "40/80 GB"),
        ("[N/A], [N/A], [N/A]\n", None, 0, ""),
        ("Unable to determine the device handle\n", None, 0, ""),
        ("", "", 8, ""),
    ],
)
def test_what_nvidia_smi_prints_is_words_for_the_table(text, visible, gpus, words):
    assert gpu_load.words(gpu_load.chosen(gpu_load.parse(text), visible, gpus)) == words
    assert not words or life.gpu_words(json.dumps({"gpu": words})) == words


@pytest.mark.parametrize("value", [None, 5, [], "x" * 99, "a\x1b[31mGB", "1 GB\n"])
def test_words_that_somebody_edited_are_not_shown(value):
    assert life.gpu_words(json.dumps({"gpu": value})) == ""


@pytest.mark.slow
def test_the_supervisor_notes_how_busy_the_gpu_is(tmp_path):
    """A stand-in answers for nvidia-smi: the driver of a card cannot be had here."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '87, 21504, 81920'\n")
    smi.chmod(0o755)
    folder = tmp_path / ".jobs" / "train"
    folder.mkdir(parents=True)
    job = Job("train", "folder", ("sh", "-c", "while [ ! -e enough ]; do sleep 0.02; done"))
    (folder / "engine.json").write_bytes(job.to_json())
    env = os.environ | {"TANDEM_SUPERVISOR_SECONDS": "0.05", "TANDEM_NVIDIA_SMI": str(smi)}
    command = [sys.executable, str(ROOT / "scripts/jobs/supervisor.py"), ".jobs/train"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env)
    life_file = folder / "life.json"
    try:
        wait_until(lambda: life_file.exists() and life.gpu_words(life_file.read_text()), process)
        assert life.gpu_words(life_file.read_text()) == "87 % 21/80 GB"
    finally:
        (tmp_path / "enough").touch()
        assert process.wait(timeout=30) == 0
