"""How busy a job's GPUs are, for the table of jobs: '87 % 21/80 GB', noted by the supervisor."""

from __future__ import annotations

import os
import re
import threading

from checks import probe
from checks.gpu import find_smi

EVERY_SECONDS = 10.0
ANSWER_SECONDS = 20.0  # eight cards without the persistence daemon take 10
QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
MIB_IN_GB = 1024


class GpuLoad:
    """Asks nvidia-smi now and then, in a thread: a driver that hangs must not stop the watch."""

    def __init__(self, gpus: int):
        self.gpus, self.text = gpus, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        if find_smi():
            self._thread.start()

    def _ask(self) -> None:
        while True:
            answer = probe.ask({"load": [find_smi() or "nvidia-smi", *QUERY]}, ANSWER_SECONDS)
            if answer["load"].code != 0:  # an old driver, or one that hangs: not asked again
                self.text = ""
                return
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            self.text = words(chosen(parse(answer["load"].text), visible, self.gpus))
            if self._ended.wait(EVERY_SECONDS):
                return

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()


def parse(text: str) -> list[tuple[float | None, float, float]]:
    """(percent busy or None, MiB used, MiB in all) of each card; other lines are dropped."""
    cards = []
    for line in text.splitlines():
        busy, *memory = [part.strip() for part in line.split(",")]
        if len(memory) == 2 and all(re.fullmatch(r"\d{1,9}", part) for part in memory):
            percent = float(busy) if re.fullmatch(r"\d{1,3}", busy) else None  # [N/A] under MIG
            cards.append((percent, float(memory[0]), float(memory[1])))
    return cards


def chosen(cards: list, visible: str | None, gpus: int) -> list:
    """The cards of the job: those that CUDA_VISIBLE_DEVICES numbers, else the first `gpus`."""
    numbers = [part.strip() for part in (visible or "").split(",")]
    if all(part.isdecimal() and int(part) < len(cards) for part in numbers):
        cards = [cards[int(part)] for part in numbers]
    return cards[:gpus] if gpus else cards


def words(cards: list[tuple[float | None, float, float]]) -> str:
    """'87 % 21/80 GB'; '8 x 91 % 60/80 GB': the mean load, and the memory of the fullest card."""
    if not cards:
        return ""
    loads = [percent for percent, _, _ in cards if percent is not None]
    _, used, whole = max(cards, key=lambda card: card[1] / max(card[2], 1))
    count = f"{len(cards)} x " if len(cards) > 1 else ""
    load = f"{sum(loads) / len(loads):.0f} % " if loads else ""
    return f"{count}{load}{used / MIB_IN_GB:.0f}/{whole / MIB_IN_GB:.0f} GB"
