"""A line that shows that something goes on: moving on a terminal, elsewhere one line every 25 s.

with MovingLine("hashing 3 files"):        # or a function that gives the text
    work()

Needs no package: the sync and set-up commands run before there are any.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from kit import console

FIRST, STEP = 1.0, 0.5  # seconds before the first line on a terminal, and between two
QUIET = console.QUIET


class MovingLine:
    """Shows the text and the seconds until the block ends; nothing for what ends at once."""

    def __init__(self, text: str | Callable[[], str]):
        self._text = text if callable(text) else lambda: text
        self.shown = 0  # how often
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> MovingLine:
        self._thread.start()
        return self

    def _show(self) -> None:
        began, terminal = time.monotonic(), sys.stderr.isatty()
        pause = FIRST if terminal else QUIET
        while not self._ended.wait(pause):
            line = console.printable_line(f"{self._text()}, {time.monotonic() - began:.0f} s")
            if terminal:
                print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
                pause = STEP
            else:
                console.note(line)
            self.shown += 1
        if terminal and self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
