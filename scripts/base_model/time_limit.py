"""A limit in time for work in this process that a file from elsewhere steers: a chat template.

    with time_limit(10):            # TookTooLong is raised inside the block, in any thread
        text = tokenizer.apply_chat_template(messages, tokenize=False)

One thread watches all blocks of the process: a block costs a microsecond, not a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator

PAUSE = 0.25  # seconds between two looks


class TookTooLong(BaseException):
    """Not an Exception: what the block runs must not catch it."""


class _Watch:
    """Raises TookTooLong in each thread whose block is overdue, again until it has left."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ends: dict[int, float] = {}  # thread -> when its block must be over
        self.process = 0

    def begin(self, seconds: float) -> None:
        with self.lock:
            self.ends[threading.get_ident()] = time.monotonic() + seconds
            if self.process != os.getpid():  # the first block, or a fork, which has no threads
                self.process = os.getpid()
                threading.Thread(target=self._look, daemon=True).start()

    def end(self) -> None:
        with self.lock:
            self.ends.pop(threading.get_ident(), None)

    def _look(self) -> None:
        while True:
            time.sleep(PAUSE)
            with self.lock:
                now = time.monotonic()
                for thread in [t for t, end in self.ends.items() if now > end]:
                    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
                    raise_in(ctypes.c_ulong(thread), ctypes.py_object(TookTooLong))


_watch = _Watch()
os.register_at_fork(after_in_child=lambda: _watch.__init__())


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TookTooLong in this thread if the block takes longer. Blocks do not nest."""
    try:
        _watch.begin(seconds)
        yield
    finally:
        while True:
            try:
                _watch.end()
                for _ in range(3):  # what was raised just before arrives here
                    pass
                break
            except TookTooLong:
                continue
