"""lora_trainer.py as a child: trained, stopped at its first checkpoint, resumed, and its pace."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import options
from kit import console, paths
from training import run_folder

TRAINER = paths.ROOT / "scripts" / "lora_trainer.py"
LOOK_SECONDS = 0.05


def command(config: str, overrides: list[str], settings: Mapping[str, Any]) -> list[str]:
    """The words of a confirmed training with these settings over the configuration."""
    sets = [*options.set_words(overrides), *options.set_words(settings)]
    return [sys.executable, str(TRAINER), "--config", config, "--confirm-run", *sets]


def train_stop_resume(
    words: list[str], run_id: str, env: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Train, stop at the first checkpoint, resume: {"resumed", "evaluated"}.

    resumed: False where the training was done before it could be stopped. Problem with the
    trainer's last line where it fails or takes longer than `seconds`.
    """
    run = paths.folder("runs") / run_id
    end = time.monotonic() + seconds
    completed = run_once([*words, "--run-id", run_id], env, end, stop_in=run)
    if not completed:
        run_once([*words, "--resume", run_id], env, end)
    rows = run_folder.read_metrics(run)
    return {"resumed": not completed, "evaluated": any("eval_loss" in row for row in rows)}


class Watch(threading.Thread):
    """Sends TERM to a trainer once its run has a checkpoint, KILL once its time is over."""

    def __init__(self, process: subprocess.Popen, end: float, run: Path | None):
        super().__init__(daemon=True)
        self.process, self.end, self.run_folder = process, end, run
        self.stopped = self.late = False
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(LOOK_SECONDS):
            if time.monotonic() > self.end:
                self.late = True
                self.process.kill()
                return
            if self.run_folder and not self.stopped and run_folder.last_checkpoint(self.run_folder):
                self.stopped = True
                self.process.terminate()


def run_once(
    words: list[str], env: Mapping[str, str], end: float, stop_in: Path | None = None
) -> bool:
    """Run the trainer, its lines on stderr. True where it completed, False where it was stopped.

    end: a time of time.monotonic(); stop_in: the run to stop once it has a checkpoint.
    """
    last = ""
    with subprocess.Popen(
        words, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace",
    ) as trainer:  # fmt: skip
        watch = Watch(trainer, end, stop_in)
        watch.start()
        try:
            for line in trainer.stderr:
                last = line.strip() or last
                console.note(line.rstrip())
            code = trainer.wait()
        finally:
            watch.over.set()
            with contextlib.suppress(OSError):
                trainer.kill()
    if code == console.GOOD:
        return True
    if watch.stopped and code == 128 + signal.SIGTERM:
        return False
    if watch.late:
        last = "it took too long and was ended"
    name = f"{TRAINER.name}: "
    raise console.Problem(f"the training failed: {last.removeprefix(name)}")


def step_seconds(run_id: str) -> float | None:
    """Seconds of a usual step of a run that logs every step; None where too few were timed.

    A step after a checkpoint, an evaluation or a resume waited for that: the median leaves it out.
    """
    rows = run_folder.read_metrics(paths.folder("runs") / run_id)
    times = {row["step"]: row["time"] for row in rows if "loss" in row and "time" in row}
    gaps = [times[step] - times[step - 1] for step in times if step - 1 in times]
    return statistics.median(gaps) if len(gaps) >= 3 else None
