"""Run folders as the trainer leaves them, made by hand, for tests of the panel."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from kit import jsonl
from support.checkout import ROOT

# A text of a run that must reach no page as markup.
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def losses(steps: int, every: int = 10, evaluate: int = 50) -> list[dict]:
    """Rows of metrics.jsonl: a loss that falls, and one of validation that stays above."""
    rows: list[dict] = []
    begin = time.time() - steps
    for step in range(every, steps + 1, every):
        wave = 0.08 * math.sin(step / 7) + 0.05 * math.sin(step * 1.7)
        loss = 0.62 + 1.6 * math.exp(-step / 90) + wave
        rows.append({"step": step, "time": begin + step, "loss": round(loss, 4),
                     "learning_rate": 2e-4 * (1 - step / 1000), "epoch": step / 200})  # fmt: skip
        if step % evaluate == 0:
            value = 0.74 + 1.5 * math.exp(-step / 85)
            rows.append({"step": step, "time": begin + step, "eval_loss": round(value, 4)})
    return rows


def make(work: Path, run_id: str, state: str = "running", *, step: int = 420, steps: int = 1000,
         pid: int | None = None, age: float = 2.0, held: bool = True,
         **changes) -> Path:  # fmt: skip
    """adapters/runs/<run_id> below `work`; a running one belongs to process `pid`.

    held: whether that process holds the run's lock, as a trainer does.
    """
    run = work / "adapters" / "runs" / run_id
    (run / "checkpoints").mkdir(parents=True)
    now, rows = time.time(), losses(step)
    jsonl.write(run / "metrics.jsonl", rows)
    lines = [f"2026-11-21T08:15:{i % 60:02d}Z step {row['step']}/{steps}  loss {row['loss']:.4g}"
             for i, row in enumerate(r for r in rows if "loss" in r)]  # fmt: skip
    (run / "log.txt").write_text("".join(f"{line}\n" for line in lines))
    (run / "config.yaml").write_text("safety:\n  dry_run: false\n")
    (run / "run.json").write_text(json.dumps({"world_size": 1}))
    last = {k: v for row in rows for k, v in row.items() if k != "time"}
    status = last | {
        "run_id": run_id, "state": state, "pid": pid or os.getpid(), "host": socket.gethostname(),
        "started": now - age - step - 20, "heartbeat": now - age, "max_steps": steps, "step": step,
        "checkpoint": f"checkpoint-{step // 100 * 100}", "eta_seconds": float(steps - step),
    }  # fmt: skip
    if state == "running" and held:
        status["command"] = lock(run, status["pid"])
    if state != "running":
        status["ended"] = now - age
    (run / "status.json").write_text(json.dumps(status | changes))
    return run


def lock(run: Path, pid: int) -> list[str] | None:
    """Hold the run's lock in the name of process `pid`; returns its command line.

    The lock is held by this process until it ends: `pid` stands in for a trainer.
    """
    from training import run_lock

    held = os.open(run / run_lock.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(held, fcntl.LOCK_EX)
    os.write(held, f"{pid}\n".encode())
    return run_lock.command_of(pid)


class Panel:
    """scripts/panel.py as a process of its own, on `work`; `restart` keeps the port."""

    def __init__(self, work: Path, *options: str):
        self.work, self.options, self.port = work, options, 0
        self.start()

    def start(self) -> None:
        words = [sys.executable, str(ROOT / "scripts" / "panel.py"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*words, *self.options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"TANDEM_WORKDIR": str(self.work)},
        )  # fmt: skip
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.stderr.read()
        self.port = int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """End it and all of its process group, as a terminal does; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def restart(self) -> None:
        self.stop()
        self.start()
