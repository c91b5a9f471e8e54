"""Compares a version's files with its card: none may be missing, changed or added.

card.json's `files` is {name: {"sha256": …, "bytes": …}} for every file but card.json itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kit import publish

CARD = "card.json"


def listed_files(card: Any) -> dict[str, tuple[str, int | None]] | None:
    """{name: (SHA-256, bytes or None)} of a card; None where it does not list any files."""
    files = card.get("files") if isinstance(card, dict) else None
    if not isinstance(files, dict) or not files:
        return None
    listed: dict[str, tuple[str, int | None]] = {}
    for name, entry in files.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if (
            not isinstance(digest, str)
            or not publish.SHA256.fullmatch(digest)
            or not is_plain(name)
        ):
            return None
        size = entry.get("bytes")
        if size is not None and (type(size) is not int or size < 0):
            return None
        listed[name] = (digest, size)
    return listed


def is_plain(name: str) -> bool:
    """Whether `name` is a relative path without empty, `.` or `..` parts."""
    return bool(name) and not any(part in ("", ".", "..") for part in name.split("/"))


def first_difference(
    listed: dict[str, tuple[str, int | None]],
    present: Iterable[str],
    size_of: Callable[[str], int | None],
    digest_of: Callable[[str], str | None],
) -> tuple[str, str] | None:
    """(name, what is wrong) of the first file that is not as listed; None where all is.

    `present`: every file of the folder. `size_of` and `digest_of` return None for a missing one.
    """
    for name, (digest, size) in listed.items():
        actual_size = size_of(name)
        if actual_size is None:
            return name, "missing"
        if size is not None and actual_size != size:
            return name, f"{actual_size} bytes, the card says {size}"
        actual = digest_of(name)
        if actual != digest:
            digest_here = f"{actual[:12]}…" if actual else "unknown"
            return name, f"its SHA-256 is {digest_here}, the card says {digest[:12]}…"
    extra = sorted(set(present) - listed.keys() - {CARD})
    return (extra[0], "not in the card: versions do not change") if extra else None
