"""Train and validation: by seed, by group, with no near-duplicate on both sides."""

from __future__ import annotations

import hashlib

from corpus.rows import Row


def rank(seed: int, key: str) -> bytes:
    """A place in a random order that depends on `seed` and `key` alone."""
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()


def sample(rows: list[Row], seed: int, limit: int | None) -> list[Row]:
    """At most `limit` rows, drawn by the seed, in the seed's order: that shuffles them too."""
    ordered = sorted(rows, key=lambda row: rank(seed, row.where + row.text()))
    return ordered[:limit]


def split(rows: list[Row], seed: int, val_fraction: float) -> tuple[list[Row], list[Row]]:
    """(train, validation). Rows of one group stay together; at least one group on each side
    where there are two and val_fraction is above 0."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group or row.where, []).append(row)
    wanted = max(1, round(len(rows) * val_fraction)) if val_fraction else 0
    chosen: set[str] = set()
    taken = 0
    most = max(2 * wanted, min(map(len, groups.values()), default=0))
    for name in sorted(groups, key=lambda name: rank(seed + 1, name)):
        if taken >= wanted or len(chosen) + 1 >= len(groups):
            break
        if taken + len(groups[name]) > most:
            continue  # one big group would make most of the data validation
        chosen.add(name)
        taken += len(groups[name])
    return (
        [row for row in rows if (row.group or row.where) not in chosen],
        [row for row in rows if (row.group or row.where) in chosen],
    )
