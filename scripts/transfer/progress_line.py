"""How far a transfer is: one line that moves on a terminal, elsewhere a line for each 10 % and
every 25 s.
"""

from __future__ import annotations

import sys
import time

from kit import console
from kit.moving_line import STEP


class ProgressLine:
    """`add` counts bytes, or `show` says how many there are; `end` finishes the line.

    Needs no package: the sync commands start Python without site-packages, in 20 ms.
    """

    def __init__(self, total: int):
        self.total, self.done, self.shown = total, 0, 0
        self.terminal = sys.stderr.isatty()
        self.began = self.last = time.monotonic()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def add(self, count: int) -> None:
        """`count` more bytes were moved."""
        self.show(self.done + count)

    def show(self, done: int) -> None:
        """`done` bytes were moved so far."""
        self.done = done
        if not self.total:
            return
        percent = min(100, 100 * done // self.total)
        now = time.monotonic()
        seconds, late = now - self.began, now - self.last >= console.QUIET
        rate = f"{console.size(done / max(0.001, seconds))}/s"
        if self.terminal and (percent > self.shown or now - self.last >= STEP):
            amount = f"{console.size(done)}  {rate}"
            print(f"\r{percent:4d} %  {amount}\033[K", end="", file=sys.stderr, flush=True)
            self.shown, self.last = max(1, percent), now
        elif not self.terminal and (late or (percent // 10 > self.shown // 10 and seconds > 2)):
            console.note(f"      {percent} %  {console.size(done)}  {rate}")
            self.shown, self.last = percent, now

    def end(self) -> None:
        """Finish the line on a terminal."""
        if self.terminal and self.shown:
            print(file=sys.stderr, flush=True)
            self.shown = 0
