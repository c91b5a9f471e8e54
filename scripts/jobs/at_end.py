"""The user's own commands at the end of a job, once each: tell somebody, then end the host.

The stop command waits a grace time, in which a file stop.done in the job's folder, a new submission
or another job that runs there calls it off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from jobs import contract, life
from jobs.contract import Job

LOOK_SECONDS = 1.0
COMMAND_SECONDS = 600  # in which a command has to end
FRESH_SECONDS = 3 * life.SEEN_SECONDS  # since when a job's life.json counts as running


def run(folder: Path, job: Job, code: int, log: Callable[[str], None]) -> None:
    """Run what is set and was not run yet. `exit` is written before the stop command's grace."""
    if job.notify and _first_time(folder, "notify"):
        _command("notify", job.notify, folder, code, log)
    if not job.stop_command or (folder / "stop.done").exists():
        return
    with contextlib.suppress(OSError):
        contract.write_exit(folder, code)
    full = not (folder / "exit").exists()
    log(f"THE HOST ENDS in {job.grace_seconds:.0f} s by its stop command: {job.stop_command}; "
        f"to call it off: touch {folder}/stop.done")  # fmt: skip
    deadline = time.monotonic() + job.grace_seconds
    while True:
        if reason := _called_off(folder, full):
            log(f"the stop command is called off: {reason}")
            return
        if (remaining := deadline - time.monotonic()) <= 0:
            break
        time.sleep(min(LOOK_SECONDS, remaining))
    if _first_time(folder, "stop"):
        _command("stop", job.stop_command, folder, code, log)


def _called_off(folder: Path, full: bool) -> str:
    """Why the host must not end, or ''. full: the disk did not take `exit`."""
    if (folder / "stop.done").exists():
        return f"{folder}/stop.done is there"
    if not full and not (folder / "exit").exists():
        return "the job was submitted again"
    for other in folder.parent.glob(f"*/{life.FILE}"):
        age = time.time() - other.stat().st_mtime
        if other.parent != folder and not (other.parent / "exit").exists() and age < FRESH_SECONDS:
            return f"the job {other.parent.name} runs here"
    return ""


def _first_time(folder: Path, name: str) -> bool:
    """Whether the command was not run before; noted before it runs, so that it never runs twice."""
    try:
        (folder / f"{name}.done").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # a full disk keeps no host running
    return True


def _command(name: str, command: str, folder: Path, code: int, log: Callable[[str], None]) -> None:
    facts = os.environ | {"TANDEM_JOB": folder.name, "TANDEM_CODE": str(code)}
    log(f"{name}: {command}")
    try:
        ended = subprocess.run(
            ["/bin/sh", "-c", command], env=facts, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        log(f"{name} did not end within {COMMAND_SECONDS} s and was ended")
        return
    text = (ended.stderr or ended.stdout).strip()[-300:]
    log(f"{name} ended with {ended.returncode}" + (f": {text}" if text else ""))
