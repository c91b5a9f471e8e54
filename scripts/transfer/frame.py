"""The frame around every answer of a host: a token of ours at its begin and its end, and limits.

What a login prints before a script (banners, blank lines) stands before the begin and is not the
answer; an answer without its end was cut. Bytes, seconds of silence and all seconds together are
bounded, so that no host can fill the memory or the disk here, or keep a command waiting for ever.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable
from typing import NamedTuple

from kit import console

BANNER_BYTES = 1 << 16  # what a login may print before the answer begins
SILENCES = 10  # an answer may take so often the seconds that it may be silent: 20 minutes


class BrokenAnswer(Exception):
    """The answer is too long, or nothing came for too long; the text says which."""


class TooLong(BrokenAnswer):
    """More bytes came than may come."""


def seconds_of(variable: str, usual: float) -> float:
    """The seconds that an environment variable names, `usual` where it is not set; else Misuse."""
    text = os.environ.get(variable) or str(usual)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise console.Misuse(f"{variable}={text}", "give a number of seconds, or unset it")
    return seconds


def patience() -> float:
    """Seconds without a byte after which a host is given up: TANDEM_SILENCE, else 120."""
    return seconds_of("TANDEM_SILENCE", 120)


class AnswerLimits(NamedTuple):
    """What one answer may take: bytes on each stream, seconds without a byte.

    `streamed`: bytes that are passed on as they come, where nobody holds them; any other answer
    ends within SILENCES times `silence`. `silence`: None stands for patience().
    """

    stdout: int = 1 << 20
    stderr: int = 1 << 20
    streamed: float = math.inf
    silence: float | None = None


class Framed:
    """What was read. `code`: the script's exit code, None where its end did not come."""

    def __init__(self):
        self.banner = self.body = b""
        self.begun = False
        self.code: int | None = None


class AnswerFrame:
    """One token: `wrap` puts it around a script, `read` takes the answer out of a stream."""

    def __init__(self):
        self.token = f"tandem-{os.urandom(8).hex()}"
        self.begin = f"{self.token} begin\n".encode()
        self.end = f"\n{self.token} end ".encode()

    def wrap(self, script: str, kept: bool = False) -> str:
        """`script` in a subshell, between the two marks; the second carries its exit code.

        kept: the shell goes on afterwards, and the script has no input: that is the next script.
        """
        empty, ends = (" </dev/null", "") if kept else ("", 'exit "$code"\n')
        return (
            f"{{ printf '%s\\n' '{self.token} begin'\n(\n{script}\n){empty}\ncode=$?\n"
            f"printf '\\n%s %s\\n' '{self.token} end' \"$code\"\n{ends}}}\n"
        )

    def read(
        self,
        stream: int,
        limits: AnswerLimits,
        stderr_bytes: Callable[[], int],
        sink: Callable[[bytes], None] | None = None,
    ) -> Framed:
        """Read descriptor `stream` to the end mark or its end.

        `sink` takes the body in pieces as it comes; then Framed.body stays empty and `streamed`
        is its limit. BrokenAnswer where a limit is passed.
        """
        silence = patience() if limits.silence is None else limits.silence
        framed, held, received = Framed(), bytearray(), 0
        began = quiet_since = time.monotonic()
        while True:
            ready, _, _ = select.select([stream], [], [], 0.25)
            if stderr_bytes() > limits.stderr:
                raise BrokenAnswer(f"more than {limits.stderr >> 10} KB of error messages")
            if not ready:
                if time.monotonic() - quiet_since > silence:
                    raise BrokenAnswer(f"no answer within {silence:.0f} s")
                continue
            quiet_since = time.monotonic()
            if not sink and quiet_since - began > SILENCES * silence:
                raise BrokenAnswer(f"its answer has no end after {SILENCES * silence:.0f} s")
            if not (chunk := os.read(stream, 1 << 18)):
                return self._ended(framed, held, sink)
            held += chunk
            received += len(chunk)
            if not framed.begun and not self._begin(framed, held):
                continue
            if (at := held.find(self.end, max(0, len(held) - len(chunk) - len(self.end) - 4))) >= 0:
                if (stop := held.find(b"\n", at + len(self.end))) >= 0:
                    framed.code = _exit_code(bytes(held[at + len(self.end) : stop]))
                    del held[at:]
                    return self._ended(framed, held, sink)
            elif sink:
                self._pass_on(held, sink)
            if len(held) > limits.stdout or (sink and received > limits.streamed + BANNER_BYTES):
                most = limits.streamed if len(held) <= limits.stdout else limits.stdout
                raise TooLong(f"an answer longer than {most // 1024:.0f} KB")

    def _begin(self, framed: Framed, held: bytearray) -> bool:
        """Cut the banner off once the begin mark is there."""
        at = held.find(self.begin)
        if at < 0:
            if len(held) > BANNER_BYTES:
                framed.banner = bytes(held[:BANNER_BYTES])
                raise BrokenAnswer("its login prints without end")
            return False
        framed.begun, framed.banner = True, bytes(held[:at])
        del held[: at + len(self.begin)]
        return True

    def _pass_on(self, held: bytearray, sink: Callable[[bytes], None]) -> None:
        """Hand on all but a tail that may be the beginning of the end mark."""
        keep = 0
        for length in range(min(len(self.end), len(held)), 0, -1):
            if self.end.startswith(held[-length:]):
                keep = length
                break
        ready = len(held) - keep
        if ready:
            sink(bytes(held[:ready]))
            del held[:ready]

    def _ended(self, framed: Framed, held: bytearray, sink) -> Framed:
        if not framed.begun:
            framed.banner = bytes(held)
        elif sink and held:
            sink(bytes(held))
        else:
            framed.body = bytes(held)
        return framed


def _exit_code(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) < 4 else None
