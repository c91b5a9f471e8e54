"""The cards of this machine as values, read from the answers of nvidia-smi."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable

from checks.gpu_facts import BF16_FROM, FAILED_CARD, MEMORY_CLASSES, UNIFIED_MEMORY
from checks.probe import ProgramAnswer


@dataclasses.dataclass
class Gpu:
    """One card. None where the driver does not say. `memory_mib` of a MIG parent is the card's."""

    index: int
    name: str
    memory_mib: int | None
    driver: str | None
    compute_cap: float | None = None
    used_mib: int | None = None
    slices_mib: list[int] | None = None  # memory of its MIG devices, None without MIG
    uuid: str | None = None
    slice_uuids: list[str] = dataclasses.field(default_factory=list)
    shares_host_memory: bool = False
    failure: str = ""  # what nvidia-smi prints in place of values: 'GPU requires reset'

    @property
    def memory_class(self) -> str:
        """'24 GB class', '80 GB class', …, or 'unknown'; of the smallest slice under MIG."""
        return memory_class(self.usable_mib)[0] if self.usable_mib is not None else "unknown"

    @property
    def usable_mib(self) -> int | None:
        """What one process gets: the card, or the smallest MIG device."""
        return min(self.slices_mib) if self.slices_mib else self.memory_mib

    @property
    def bf16(self) -> bool | None:
        """Whether it computes in bfloat16."""
        return None if self.compute_cap is None else self.compute_cap >= BF16_FROM


def memory_class(mib: int) -> tuple[str, str]:
    """(the class of a card with that much memory, what to do about it or '')."""
    return next(row[2:] for row in MEMORY_CLASSES if row[0] <= mib < row[1])


def read_cards(answers: dict[str, ProgramAnswer]) -> list[Gpu]:
    """The cards from the answers to gpu.questions(); [] where nvidia-smi lists none."""
    if answers["cards"].code != 0:
        return []
    cards = parse_cards(answers["cards"].text)
    _add_column(cards, answers["compute_cap"], "compute_cap", float)
    _add_column(cards, answers["memory.used"], "used_mib", int)
    _add_uuids(cards, answers["list"])
    _add_slices(cards, answers["mig"], answers["list"])
    for card in cards:
        if card.memory_mib is None and not card.failure and UNIFIED_MEMORY.search(card.name):
            card.memory_mib, card.shares_host_memory = _host_memory_mib(), True
    return cards


def parse_cards(text: str) -> list[Gpu]:
    """`name, memory.total, driver_version` lines as cards; lines of another shape are dropped."""
    cards = []
    for line in text.splitlines():
        fields = line.rsplit(", ", 2)  # a name may hold a comma
        if len(fields) == 3 and re.fullmatch(r"\d+\.\d[\d.]*", value(fields[2]) or "0.0"):
            name, memory, driver = fields
            failure = next((f.strip("[] ") for f in fields if FAILED_CARD.search(f)), "")
            cards.append(Gpu(len(cards), name, number(memory), value(driver), failure=failure))
    return cards


def value(text: str) -> str | None:
    """A field of nvidia-smi's CSV; None for its ways to say that it does not know."""
    text = text.strip()
    unknown = text.lower() in ("n/a", "not supported", "unknown error", "err!", "")
    return None if unknown or (text[0] == "[" and text[-1] == "]") else text


def number(text: str, kind: Callable = int):
    """A field as a number, None where it is none."""
    try:
        return kind(value(text) or "")
    except ValueError:
        return None


def _add_column(cards: list[Gpu], answer: ProgramAnswer, field: str, kind: Callable) -> None:
    """Set `field` of every card from a one-column answer, if it has one line a card."""
    lines = answer.text.splitlines()
    if answer.code == 0 and len(lines) == len(cards):
        for card, line in zip(cards, lines, strict=True):
            setattr(card, field, number(line, kind))
            if not card.failure and FAILED_CARD.search(line):
                card.failure = line.strip("[] ")


def _add_uuids(cards: list[Gpu], listing: ProgramAnswer) -> None:
    """Set the UUID of every card and of its MIG devices, from `nvidia-smi -L`."""
    card = None
    for line in listing.text.splitlines():
        uuid = re.search(r"\(UUID: ([\w/-]+)\)", line)
        if index := re.match(r"GPU (\d+):", line):
            card = next((c for c in cards if c.index == int(index[1])), None)
            if card and uuid:
                card.uuid = uuid[1]
        elif card and uuid and line.lstrip().startswith("MIG "):
            card.slice_uuids.append(uuid[1])


def _add_slices(cards: list[Gpu], mig: ProgramAnswer, listing: ProgramAnswer) -> None:
    """Give every card in MIG mode the memory of its MIG devices, from `nvidia-smi -L`."""
    modes = mig.text.splitlines()
    if mig.code != 0 or len(modes) != len(cards):
        return
    sizes: list[list[int]] = []
    for line in listing.text.splitlines():
        if line.startswith("GPU "):
            sizes.append([])
        elif (profile := re.match(r"\s+MIG\s+\S*?(\d+)gb", line)) and sizes:
            sizes[-1].append(int(profile[1]) * 1024)
    for card, mode in zip(cards, modes, strict=True):
        if value(mode) == "Enabled":
            card.slices_mib = sizes[card.index] if card.index < len(sizes) else []


def _host_memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (ValueError, OSError):
        return None
