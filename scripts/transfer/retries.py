"""A lost connection is taken up again: how often, and after which waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from kit import console
from transfer.frame import seconds_of

T = TypeVar("T")
TRIES = 5


class ConnectionLost(console.Problem):
    """The connection failed or ended in the middle of an answer: another try may help."""


def wait_before(attempt: int) -> float:
    """Seconds before try `attempt` (from 1): 2, 4 … 32, each give or take a quarter.

    TANDEM_RETRY_WAIT replaces the 2 s.
    """
    import random

    first = seconds_of("TANDEM_RETRY_WAIT", 2)
    return min(first * 2 ** (attempt - 1), 16 * first) * random.uniform(0.75, 1.25)


def persist(name: str, once: Callable[[], T], tries: int = TRIES) -> T:
    """Call `once`, and again after a lost connection up to `tries` times; returns its result."""
    attempt = 0
    while True:
        try:
            return once()
        except ConnectionLost as lost:
            attempt += 1
            if attempt > tries:
                raise
            wait_to_retry(name, lost, attempt)


def wait_to_retry(name: str, lost: console.Problem, attempt: int) -> None:
    """Warn why, and wait before try `attempt`."""
    pause = wait_before(attempt)
    console.warn(f"{lost.text}; again in {pause:.0f} s, try {attempt} of {TRIES}")
    time.sleep(pause)
