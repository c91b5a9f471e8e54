"""A script that runs on a host, as this machine sees it: fed on stdin, answered inside a frame.

A start-up file of the login may read stdin, too, and so cut a script's beginning off. What comes
first is therefore a token that the command line names; without it nothing runs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from transfer.frame import AnswerFrame, AnswerLimits, Framed

READS_INPUT = "a start-up file of this login reads the standard input"
KEPT_STDERR_BYTES = 16 << 20  # of a kept shell in its whole life, also while no answer is awaited
LOOK_SECONDS = 0.5  # between two looks at it
_REFUSE = f'echo "{READS_INPUT}" >&2; exit 96'


def one_script(token: str, script: bytes) -> tuple[str, bytes]:
    """(command for the login's shell, what to write to its stdin) of a script that runs alone.

    The script travels on stdin, so no login shell (fish, csh) parses it.
    """
    code = f": {token}\n".encode() + script
    return (
        f"""sh -c 'code=$(dd bs=1 count={len(code)} 2>/dev/null); """
        f"""case $code in (": {token}"*) eval "$code";; (*) {_REFUSE};; esac'"""
    ), code


def kept_shell(token: str) -> tuple[str, bytes]:
    """(command, first line on stdin) of a shell that takes script after script."""
    return (
        f"sh -c 'IFS= read -r line; case $line in ({token}) exec sh;; (*) {_REFUSE};; esac'"
    ), f"{token}\n".encode()


class RemoteScript:
    """A script that runs on a host: the process here, its frame, its stderr.

    keep: the process is a shell that takes the next script after one that ended well.
    """

    def __init__(
        self,
        process: subprocess.Popen,
        errors: IO[bytes] | None,
        frame: AnswerFrame,
        keep: bool = False,
    ):
        self.process, self.frame, self.errors, self.keep = process, frame, errors, keep
        self.fed = False  # it was given something to run
        self.old_errors = 0  # bytes that the scripts before it wrote to stderr

    def followed_by(self, frame: AnswerFrame) -> RemoteScript:
        """The next script of a kept shell."""
        following = RemoteScript(self.process, self.errors, frame, keep=True)
        following.old_errors = self._size_of_errors() if self.fed else 0
        return following

    def feed(self, *pieces: bytes) -> None:
        """Write the script and its input from a thread: the answer is read at the same time."""
        self.fed = True

        def write() -> None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                for piece in pieces:
                    self.process.stdin.write(piece)
                (self.process.stdin.flush if self.keep else self.process.stdin.close)()

        threading.Thread(target=write, daemon=True).start()

    def answer(self, limits: AnswerLimits, sink: Callable[[bytes], None] | None = None) -> Framed:
        """Read the answer; end the process here, whatever comes, unless it is kept."""
        goes_on = False
        try:
            framed = self.frame.read(self.process.stdout.fileno(), limits, self._stderr_bytes, sink)
            goes_on = self.keep and framed.code == 0
            if not goes_on:
                if self.keep and framed.code is not None:
                    self.process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)  # after its end mark a script has nothing more to do
            return framed
        finally:
            if not goes_on:
                self.end()

    def bound_errors(self, most: int = KEPT_STDERR_BYTES) -> None:
        """End the process from a thread once it wrote more to stderr: nobody may be reading."""

        def watch() -> None:
            while self.process.poll() is None:
                if self._size_of_errors() > most:
                    self.process.kill()
                time.sleep(LOOK_SECONDS)

        threading.Thread(target=watch, daemon=True).start()

    def end(self) -> None:
        """End the process here."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def _size_of_errors(self) -> int:
        return os.fstat(self.errors.fileno()).st_size if self.errors else 0

    def _stderr_bytes(self) -> int:
        return self._size_of_errors() - self.old_errors

    def stderr(self) -> str:
        """What it wrote to stderr."""
        if not self.errors:
            return ""
        self.errors.seek(self.old_errors)
        return self.errors.read(1 << 20).decode(errors="replace")
