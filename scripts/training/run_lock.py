"""The lock of a run's folder: who trains the run, proved by the operating system.

`.lock` is held (flock) by the training process for as long as it lives and names its process id.
A folder that was copied from another machine brings the file but never the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kit import console, lock

LOCK_FILE = ".lock"
TRAINERS = ("lora_trainer.py", "reward_model.py", "ppo_trainer.py")

_held: dict[Path, int] = {}  # run folder -> descriptor of its lock, open while this process lives


def hold(run: Path) -> None:
    """Lock a run's folder until this process ends. Problem where another process holds it."""
    if run in _held:
        return
    descriptor = os.open(run / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise console.Problem(
            f"another process is training the run {run.name}",
            "wait until it ends, or stop it first",
        ) from None
    except OSError as error:
        os.close(descriptor)
        if error.errno not in lock.NO_LOCKS:
            raise
        console.warn(
            f"{run}: this disk has no file locks, so nothing stops a second process there; "
            "put the work folder on a local disk"
        )
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    _held[run] = descriptor
    # A data loader's worker may outlive a killed trainer; it must not keep the lock.
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))


def release_unused(run: Path | None) -> None:
    """Remove the folder of a run that ended before it began: it holds nothing but the lock."""
    if run in _held and [p.name for p in run.iterdir()] == [LOCK_FILE]:
        (run / LOCK_FILE).unlink()
        run.rmdir()


def holder(run: Path) -> int | None:
    """The id of the process that holds the lock of a run's folder now; None where nobody does."""
    try:
        descriptor = os.open(run / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(ValueError, OSError):
            return int(os.pread(descriptor, 32, 0))
        return None
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def command_of(pid: int) -> list[str] | None:
    """The command line of a process of this machine; None where there is no such process."""
    if Path("/proc/self/cmdline").exists():
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return raw.decode("utf-8", "surrogateescape").split("\0")[:-1] or None
    if not shutil.which("ps"):
        return None
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)],
                           capture_output=True, text=True)  # fmt: skip
    return shown.stdout.strip().split() or None


def runs_command(pid: Any, recorded: Any) -> bool:
    """Whether process `pid` of this machine still runs the recorded command line."""
    if type(pid) is not int or pid <= 1 or not isinstance(recorded, list):
        return False
    actual = command_of(pid)
    return actual is not None and " ".join(actual).split() == " ".join(recorded).split()


def is_trainer(command: Any) -> bool:
    """Whether a command line is that of a trainer, so that nothing else is ever stopped."""
    return isinstance(command, list) and any(Path(word).name in TRAINERS for word in command[:12])


def own_command() -> list[str]:
    """The command line of this process, as `command_of` reports it."""
    return command_of(os.getpid()) or list(sys.orig_argv)
