"""Asking other programs: several at once, each with a deadline, none can hang the report."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time


@dataclasses.dataclass
class ProgramAnswer:
    """What a program said: exit code (None: no answer in time, 127: not there), its output."""

    code: int | None
    text: str


class StartedPrograms:
    """Programs that were started together. `options` (cwd, env) are those of Popen."""

    def __init__(self, commands: dict[str, list[str]], timeout: float, **options):
        self._deadline = time.monotonic() + timeout
        self._started = {name: _start(command, options) for name, command in commands.items()}

    def answer(self, name: str) -> ProgramAnswer:
        """Wait for one of them, at most until the common deadline; then it is ended and left."""
        process = self._started[name]
        if isinstance(process, ProgramAnswer):
            return process
        try:
            remaining = max(0.01, self._deadline - time.monotonic())
            out, _ = process.communicate(timeout=remaining)
        except subprocess.TimeoutExpired:
            _end(process)
            self._started[name] = ProgramAnswer(None, "")
        else:
            self._started[name] = ProgramAnswer(process.returncode, out.decode("utf-8", "replace"))
        return self._started[name]


def ask(commands: dict[str, list[str]], timeout: float) -> dict[str, ProgramAnswer]:
    """Run all `commands` at once and give each its answer."""
    running = StartedPrograms(commands, timeout)
    return {name: running.answer(name) for name in commands}


def _start(command: list[str], options: dict) -> subprocess.Popen | ProgramAnswer:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    except OSError as error:
        return ProgramAnswer(127, error.strerror or str(error))


def _end(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=1)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass  # stuck in the kernel, as a broken driver does it: not even KILL ends it
