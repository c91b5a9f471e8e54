"""The lines that a sync prints: names, amounts, plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kit import console
from transfer.listing import ListedFile

SHOWN = 5  # names in one line


def names(paths: Iterable[str]) -> str:
    """The first names, separated by commas."""
    paths = list(paths)
    return ", ".join(map(console.printable_name, paths[:SHOWN])) + (
        ", …" if len(paths) > SHOWN else ""
    )


def amount(files: Iterable[ListedFile]) -> str:
    """`3 files, 1.2 MB`"""
    sizes = [f.size for f in files]
    return f"{len(sizes):,} file{'s' * (len(sizes) != 1)}, {console.size(sum(sizes))}"


def files_line(kind: str, paths: list[str], files: dict[str, ListedFile]) -> list[str]:
    """One plan line, or none: the kind, how many, how much, the first names."""
    if not paths:
        return []
    return [f"{kind:<9} {amount(files[n] for n in paths if n in files)}: {names(paths)}"]


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    """What does not travel and why, one line a reason."""
    by_reason: dict[str, list[str]] = {}
    for path, why in skipped.items():
        by_reason.setdefault(why, []).append(path)
    return [f"skipped   {names(paths)}: {why}" for why, paths in sorted(by_reason.items())]


def rate(size: float, seconds: float) -> str:
    """`1.2 MB/s`"""
    return f"{console.size(size / max(seconds, 0.001))}/s"


def emit(lines: Iterable[str], to: Callable[[str], None]) -> None:
    """Print each line with `to`."""
    for line in lines:
        to(line)
