"""lora_trainer.py as a process of its own, on a work folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import tiny
from support.checkout import ROOT

TRAINER = str(ROOT / "scripts" / "lora_trainer.py")
CONFIRMED = ("--confirm-run", "--set", "safety.dry_run=false")


def environment(work: Path) -> dict[str, str]:
    """The variables of a process that trains below `work`."""
    return os.environ | {
        "TANDEM_WORKDIR": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"
    }  # fmt: skip


def launch(words: list[str], work: Path) -> subprocess.Popen:
    """Start a command below `work`, its output piped as text."""
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment(work))


def start(work: Path, *arguments: str, **changes: object) -> subprocess.Popen:
    """Start lora_trainer.py with the settings of `tiny`, some of them changed."""
    return launch([sys.executable, TRAINER, *arguments, *tiny.options(**changes)], work)
