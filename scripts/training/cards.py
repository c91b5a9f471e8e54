"""GPUs that people train on: memory, and the speed that LoRA steps are expected to reach.

The rates are estimates (about 40 % of a card's dense bfloat16 peak), not measurements.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from kit import console
from kit.console import GB
from kit.report import Check

if TYPE_CHECKING:
    from checks.gpu_cards import Gpu

FULL_ABOVE = (
    1.05  # share of a card's memory above which an estimate does not fit (it is off by 9 %)
)
TIGHT_ABOVE = 0.92


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU. `tflops`: sustained, in bfloat16 (float16 where it has none); None: not known."""

    name: str
    gigabytes: float
    tflops: float | None
    bf16: bool = True
    used: float = 0.0  # bytes that other processes hold

    def verdict(self, needed: float) -> str:
        """'fits', 'tight' or 'does not fit' for a need in bytes."""
        share = needed / max(self.gigabytes * GB - self.used, 1)
        return (
            "fits" if share <= TIGHT_ABOVE else "tight" if share <= FULL_ABOVE else "does not fit"
        )


KNOWN = (
    Card("T4 16 GB", 15, 20, bf16=False), Card("V100 16 GB", 16, 40, bf16=False),
    Card("V100 32 GB", 32, 40, bf16=False), Card("L4 24 GB", 24, 40), Card("A10 24 GB", 24, 45),
    Card("A10G 24 GB", 24, 28), Card("RTX 3060 12 GB", 12, 10), Card("RTX 3080 10 GB", 10, 24),
    Card("RTX 3090 24 GB", 24, 28), Card("RTX 4060 Ti 16 GB", 16, 18),
    Card("RTX 4070 12 GB", 12, 23),
    Card("RTX 4080 16 GB", 16, 39), Card("RTX 4090 24 GB", 24, 66), Card("RTX 5080 16 GB", 16, 45),
    Card("RTX 5090 32 GB", 32, 84), Card("RTX A6000 48 GB", 48, 62), Card("A40 48 GB", 48, 60),
    Card("RTX 6000 Ada 48 GB", 48, 120), Card("L40S 48 GB", 48, 120), Card("A100 40 GB", 40, 125),
    Card("A100 80 GB", 80, 125), Card("H100 80 GB", 80, 350), Card("H100 NVL 94 GB", 94, 300),
    Card("H200 141 GB", 141, 380), Card("B200 180 GB", 180, 800),
)  # fmt: skip
USUAL = ("RTX 3090 24 GB", "H100 80 GB")  # what a plan shows where no card is named


def usual() -> list[Card]:
    return [card for card in KNOWN if card.name in USUAL]


def named(text: str) -> Card:
    """The card of `--gpu TEXT`: 'RTX 4090', 'h100', 'A100 80 GB', or a size such as '24 GB'.

    Where one name has several sizes, the smallest is taken. Misuse for a name that is not known.
    """
    words = _words(text)
    size = re.fullmatch(r"(\d+(?:\.\d+)?)(?:gb)?", "".join(words))
    if size and 4 <= float(size[1]) <= 400:
        return Card(f"{size[1]} GB", float(size[1]), None)
    numbered = any(word[-1].isdigit() or word[0].isdigit() for word in words)
    fitting = [card for card in KNOWN if numbered and words <= _words(card.name)]
    if not fitting:
        close = ", ".join(card.name for card in KNOWN)
        raise console.Misuse(f"--gpu {text!r}: no such card is known", f"give a size or: {close}")
    return min(fitting, key=lambda card: (len(_words(card.name) - words), card.gigabytes))


def _words(text: str) -> frozenset[str]:
    text = re.sub(r"nvidia|geforce|tesla|quadro|gb\b|pcie|sxm\d?|hbm\d?\w?", " ", text.lower())
    return frozenset(re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", text))


def of_driver(name: str, memory_mib: int, used_mib: int | None = None) -> Card:
    """A card that nvidia-smi reports, with the rate of the known one that its name resembles."""
    words = _words(name)
    alike = [
        card
        for card in KNOWN
        if _words(card.name.rpartition(" ")[0]) & words
        and {w for w in _words(card.name.rsplit(" ", 2)[0]) if any(map(str.isdigit, w))} <= words
    ]
    best = max(alike, key=lambda card: len(_words(card.name) & words), default=None)
    used = (used_mib or 0) * (1 << 20)
    return Card(name, memory_mib / 1024, best and best.tflops, best is None or best.bf16, used)


def _of_gpu(gpu: Gpu) -> Card:
    """The card of check_gpu.py, or the one MIG device of it that a process gets."""
    card = of_driver(gpu.name, gpu.usable_mib or 0, gpu.used_mib)
    if not gpu.slices_mib or not gpu.memory_mib:
        return card
    share = (gpu.usable_mib or 0) / gpu.memory_mib
    rate = card.tflops and card.tflops * share
    name = f"{gpu.name} MIG {card.gigabytes:.0f} GB"  # `used` is of all devices of the card
    return dataclasses.replace(card, name=name, tflops=rate, used=0.0)


def look() -> tuple[list[Card], list[Check]]:
    """(the cards that a process gets here, what is wrong with this machine's GPUs as warnings)."""
    from checks import gpu, gpu_variables
    from kit import paths

    if gpu.find_smi() is None:
        return [], []
    checks, gpus = gpu.look(paths.ROOT / "requirements-remote.txt", timeout=10)
    usable = [g for g in gpu_variables.visible_cards(gpus) if g.usable_mib and not g.failure]
    bad = [dataclasses.replace(c, status="warn") for c in checks if c.status == "fail"]
    return [_of_gpu(g) for g in usable], bad
