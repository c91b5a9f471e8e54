"""A line that shows that something goes on: moving on a terminal, elsewhere one line whenever
nothing else was written for 25 s.

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
    """Shows the text and the seconds until the block ends; nothing for what ends at once.

    Of lines inside each other the innermost shows.
    """

    _open: list[MovingLine] = []

    def __init__(self, text: str | Callable[[], str]):
        self._text = text if callable(text) else lambda: text
        self.shown = 0  # how often
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> MovingLine:
        self._open.append(self)
        self._thread.start()
        return self

    def _show(self) -> None:
        began = last = time.monotonic()
        terminal, lines = sys.stderr.isatty(), console.lines_written()
        while not self._ended.wait(STEP if self.shown or not terminal else FIRST):
            now = time.monotonic()
            if console.lines_written() != lines:
                lines, last = console.lines_written(), now
            if self._open[-1] is not self:
                continue
            line = f"{self._text()}, {_elapsed(now - began)}"
            if terminal:
                console.moving_line(line)
            elif now - last >= QUIET:
                console.note(console.printable_line(line))
            else:
                continue
            self.shown += 1
        if terminal:
            console.clear_moving_line()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._open.remove(self)


def _elapsed(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else console.duration(seconds)
