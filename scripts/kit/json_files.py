"""Reads small JSON files that come from elsewhere: bounded in size, depth and numbers, or refused.

A card, a report or a configuration can come from another machine or from an archive. What this
module returns holds only finite numbers (others are null: not known), and is shallow enough for
every later recursion.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

MOST_BYTES = 16 << 20
MOST_DEPTH = 64  # a card has 6 levels
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a character, as an escape
MOST_DIGITS = 400  # of one number; a float has at most 309 before its point


class DuplicateKey(ValueError):
    """An object has the key `key` twice: which value was meant is not known."""

    def __init__(self, key: str):
        self.key = key
        super().__init__(f"the key {key!r} occurs twice")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of json's object_pairs_hook; DuplicateKey where a key occurs twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(next(name for name in names if names.count(name) > 1))
    return value


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object of a file's bytes; ValueError says in words why it is none."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MB")
    try:
        value = shallow(
            data.decode("utf-8"),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=lambda name: None,
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if _SURROGATE.search(data):
        _check_texts(value)
    return value


def shallow(text: str | bytes, **hooks: Any) -> Any:
    """The value of JSON from elsewhere; ValueError where it is none, or nests too deep.

    How deep Python itself reads depends on its version, and what comes after recurses as well.
    hooks: those of json.loads.
    """
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels") from None
    check_size(value)
    return value


def read(path: Path) -> dict[str, Any]:
    """parse() of a file, of which no more than the limit is read. OSError where there is none."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    with path.open("rb") as f:
        return parse(f.read(MOST_BYTES + 1))


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def check_size(value: Any, depth: int = MOST_DEPTH, parts: float = math.inf) -> None:
    """ValueError where lists and objects nest deeper than `depth`, or a level has too many parts.

    `parts` bounds what the anchors of a small YAML file expand to. Without recursion.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        inner: list[Any] = []
        for container in level:
            inner += container.values() if isinstance(container, dict) else container
            if len(inner) > parts:
                raise ValueError(f"more than {parts:,} parts")
        level = [part for part in inner if isinstance(part, dict | list)]
    if level:
        raise ValueError(f"nested deeper than {depth} levels")


def _check_texts(value: Any) -> None:
    """ValueError for half a character, which no output can encode."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half of a character in a text") from None
