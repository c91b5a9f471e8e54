"""Functions that run in the engine's thread between two steps, where no pass uses the model."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Any


class StepCalls:
    """A queue of such functions. The engine's condition guards `add` and `end`."""

    def __init__(self) -> None:
        self._calls: collections.deque[tuple[Callable[[], Any], concurrent.futures.Future]]
        self._calls = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, do: Callable[[], Any]) -> concurrent.futures.Future:
        """Take a function in; the Future has what it returned or raised."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._calls.append((do, future))
        return future

    def run(self) -> None:
        """Run all of them. Called by the engine's thread alone."""
        while self._calls:
            do, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(do())
            except BaseException as error:
                future.set_exception(error)

    def end(self, error: Exception) -> None:
        """Those that wait end with an error."""
        while self._calls:
            self._calls.popleft()[1].set_exception(error)
