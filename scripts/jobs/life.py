"""One life of a job on disk: life.json while it runs, a line of lives.jsonl once it has ended.

A life that ended with its machine (a reboot, a lost spot instance, KILL) leaves life.json behind;
the next one adds it to the ledger up to the moment when it was last seen. So budget and costs hold
over all lives. A life's length is taken from a count that no setting of the clock changes.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from pathlib import Path

from jobs import contract
from kit import publish

FILE = "life.json"
SEEN_SECONDS = 10.0  # so much of a lost life may be missing in the ledger
GPU_WORDS = re.compile(r"[0-9x%/ ]{1,40}GB")
LOST = 137  # the exit code of a life that nobody saw end: that of KILL


class Life:
    """The life that begins now. `why`, when it ends: '', hung, budget."""

    def __init__(self, folder: Path):
        self.folder, self.why = folder, ""
        settle_lost(folder)
        self.began, self._start = time.time(), time.monotonic()
        self._written, self._has_gpu = -math.inf, False
        self.seen()

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self._start

    def seen(self, gpu: str = "") -> None:
        """Note that it still runs; often enough to be called at every look. gpu: how busy it is."""
        if self.seconds - self._written < SEEN_SECONDS and bool(gpu) is self._has_gpu:
            return
        self._written, self._has_gpu = self.seconds, bool(gpu)
        ended = self.began + self.seconds
        with contextlib.suppress(OSError):  # a full disk ends no run
            facts = {"began": self.began, "ended": ended}
            publish.json_file(self.folder / FILE, facts | ({"gpu": gpu} if gpu else {}))

    def end(self, code: int) -> None:
        """Add it to the ledger."""
        ended = self.began + self.seconds
        with contextlib.suppress(OSError):
            contract.add_life(self.folder, self.began, ended, code, self.why == "hung", self.why)
        (self.folder / FILE).unlink(missing_ok=True)


def settle_lost(folder: Path) -> None:
    """Add a life that left life.json behind to the ledger; a damaged one counts nothing."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    if life := running(text):
        contract.add_life(folder, life["began"], life["ended"], LOST, False, "lost")
    (folder / FILE).unlink(missing_ok=True)


def running(text: str) -> dict[str, float] | None:
    """{began, ended: last seen} of a life.json; None where it is damaged or missing."""
    try:
        value = json.loads(text)
        life = {key: float(value[key]) for key in ("began", "ended")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return life if all(map(math.isfinite, life.values())) else None


def gpu_words(text: str) -> str:
    """How busy the GPUs of a life.json are; '' where it says nothing that can be shown."""
    try:
        words = json.loads(text)["gpu"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return words if isinstance(words, str) and GPU_WORDS.fullmatch(words) else ""
