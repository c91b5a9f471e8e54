"""A script that runs on a host, as this machine sees it: fed on stdin, answered inside a frame."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from typing import IO

from transfer.frame import AnswerFrame, AnswerLimits, Framed


class RemoteScript:
    """A script that runs on a host: the process here, its frame, its stderr."""

    def __init__(self, process: subprocess.Popen, frame: AnswerFrame, errors: IO[bytes] | None):
        self.process, self.frame, self.errors = process, frame, errors

    def feed(self, *pieces: bytes) -> None:
        """Write the script and its input from a thread: the answer is read at the same time."""

        def write() -> None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                for piece in pieces:
                    self.process.stdin.write(piece)
                self.process.stdin.close()

        threading.Thread(target=write, daemon=True).start()

    def answer(self, limits: AnswerLimits, sink: Callable[[bytes], None] | None = None) -> Framed:
        """Read the answer; end the process here, whatever comes."""
        try:
            framed = self.frame.read(self.process.stdout.fileno(), limits, self._stderr_bytes, sink)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)  # after its end mark a script has nothing more to do
            return framed
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def _stderr_bytes(self) -> int:
        return os.fstat(self.errors.fileno()).st_size if self.errors else 0

    def stderr(self) -> str:
        """What it wrote to stderr."""
        if not self.errors:
            return ""
        self.errors.seek(0)
        return self.errors.read(1 << 20).decode(errors="replace")
