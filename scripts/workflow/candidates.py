"""The settings that a sweep compares: every combination of values, or a random draw of them.

values = parse_values(["lora.r=8,16", "training.learning_rate=1e-5..1e-3"])
candidates = draw(values, count=6, seed=1)     # [("lora.r=8", "training.learning_rate=2.1e-4")]
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from dataclasses import dataclass

from kit import console

MOST = 100  # candidates: more is a search, not a comparison
RANGE = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\.\.([0-9.]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE)

Candidate = tuple[str, ...]


@dataclass(frozen=True)
class ValueRange:
    """All numbers from `low` to `high`; a draw is even on a logarithmic scale."""

    low: float
    high: float

    def draw(self, dice: random.Random) -> str:
        exponent = dice.uniform(math.log(self.low), math.log(self.high))
        return f"{math.exp(exponent):.3g}"


def parse_values(texts: list[str]) -> dict[str, list[str] | ValueRange]:
    """{key: its values} of KEY=A,B,C or KEY=LOW..HIGH; a Misuse names the text that is neither."""
    values: dict[str, list[str] | ValueRange] = {}
    for text in texts:
        key, equals, rest = text.partition("=")
        if not equals or not rest or ":" in key:
            raise console.Misuse(
                f"--try {text}: not KEY=VALUES",
                "give a key of the training configuration: --try lora.r=8,16",
            )
        if key in values:
            raise console.Misuse(f"--try {key} is given twice", "give all its values in one")
        values[key] = _range(text, rest) or _split(rest)
    return values


def _range(text: str, rest: str) -> ValueRange | None:
    match = RANGE.fullmatch(rest)
    if not match:
        return None
    try:
        low, high = float(match[1]), float(match[2])
    except ValueError:
        return None
    if not 0 < low < high < math.inf:
        raise console.Misuse(
            f"--try {text}: not a range of positive numbers", "give it as LOW..HIGH: 1e-5..1e-3"
        )
    return ValueRange(low, high)


def _split(text: str) -> list[str]:
    """The values between commas that are not inside brackets or quotes, each once."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return list(dict.fromkeys(part.strip() for part in parts))


def draw(
    values: dict[str, list[str] | ValueRange], count: int | None, seed: int
) -> list[Candidate]:
    """Every combination, or `count` different ones drawn at random; a Misuse beyond MOST."""
    ranges = [key for key, value in values.items() if isinstance(value, ValueRange)]
    if count is None and ranges:
        raise console.Misuse(
            f"--try {ranges[0]} is a range", "say how many to draw: --random N, or list values"
        )
    if count is None:
        total = math.prod(len(value) for value in values.values())
        if total > MOST:
            raise console.Misuse(
                f"{total} combinations", f"--random N draws N of them; {MOST} at most"
            )
        return list(itertools.product(*_options(values)))
    if count > MOST:
        raise console.Misuse(f"--random {count}", f"{MOST} at most")
    return _draw_random(values, count, random.Random(seed))


def _options(values: dict[str, list[str]]) -> list[list[str]]:
    return [[f"{key}={value}" for value in choices] for key, choices in values.items()]


def _draw_random(values, count: int, dice: random.Random) -> list[Candidate]:
    drawn: dict[Candidate, None] = {}
    for _ in range(100 * count):
        if len(drawn) == count:
            break
        candidate = tuple(
            f"{key}={value.draw(dice) if isinstance(value, ValueRange) else dice.choice(value)}"
            for key, value in values.items()
        )
        drawn[candidate] = None
    return list(drawn)


def candidate_id(candidate: Candidate) -> str:
    """Eight characters that name a candidate, whatever the order of its settings."""
    return hashlib.sha256(json.dumps(sorted(candidate)).encode()).hexdigest()[:8]
