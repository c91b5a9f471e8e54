"""Rows in, training files out: clean, validate, filter, de-duplicate, draw, split, measure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from corpus import deduplication, lengths, shared_text, splitting
from corpus.cleaning import Cleaner
from corpus.judge import validate
from corpus.language import ForeignLanguageFilter
from corpus.rows import BadRow, Reject, Row, Unwanted
from kit import console


@dataclasses.dataclass
class Tally:
    """What became of one source's rows."""

    recipe: str
    read: int = 0
    kept: int = 0
    dropped: Counter = dataclasses.field(default_factory=Counter)
    mended: Counter = dataclasses.field(default_factory=Counter)
    unused: Counter = dataclasses.field(default_factory=Counter)  # keys that no row uses

    def as_dict(self) -> dict[str, Any]:
        mended = {k: v for k, v in sorted(self.mended.items()) if v}
        return dataclasses.asdict(self) | {
            "dropped": dict(sorted(self.dropped.items())),
            "mended": mended,
            "unused": dict(sorted(self.unused.items())),
        }


@dataclasses.dataclass
class PreparedRows:
    """The rows of both sides, the rejects, a tally per source, the lengths, the great losses."""

    train: list[Row] = dataclasses.field(default_factory=list)
    val: list[Row] = dataclasses.field(default_factory=list)
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    tallies: dict[str, Tally] = dataclasses.field(default_factory=dict)
    length: dict[str, Any] = dataclasses.field(default_factory=dict)
    losses: list[str] = dataclasses.field(default_factory=list)  # where a filter took the most

    @property
    def bad(self) -> list[Reject]:
        return [r for r in self.rejects if r.bad]

    def shortage(self, config) -> console.Problem | None:
        """The Problem of too few rows, or None. config: config.schemas.data.DataConfig."""
        count = len(self.train) + len(self.val)
        if not count:
            return console.Problem(f"no row is left ({self.reasons()})", self._remedy())
        if config.split.val_fraction and not self.val:
            rows = "1 row is" if count == 1 else f"{count} rows are"
            dropped = any(tally.dropped for tally in self.tallies.values())
            why = f" ({self.reasons()})" if dropped else ""
            return console.Problem(
                f"only {rows} left{why}: none for validation",
                "give more rows, or --set split.val_fraction=0",
            )
        return None

    def dropped(self) -> Counter:
        """{reason: rows} over all sources."""
        return sum((tally.dropped for tally in self.tallies.values()), Counter())

    def reasons(self) -> str:
        """'exact duplicate 12, too short 3' over all sources."""
        return ", ".join(f"{name} {n}" for name, n in self.dropped().most_common()) or (
            "nothing was read"
        )

    def _remedy(self) -> str:
        """How to keep, or to see, what was dropped most."""
        ((first, _),) = self.dropped().most_common(1) or [("", 0)]
        if first.startswith("language "):
            return f"keep it with --set 'language.keep=[{first.split()[1]}]'"
        if first.startswith("held out"):
            return "to train on them, take the key split out of the rows"
        return "see each one with --rejects FILE"


class Preparation:
    """Takes items source by source with `add`, then `finish` gives the PreparedRows.

    config: config.schemas.data.DataConfig.
    """

    def __init__(self, config):
        self.config = config
        self.result = PreparedRows()
        self._cleaner = Cleaner(config.cleaning)
        self._language = ForeignLanguageFilter(config.language)
        self._seen: dict[bytes, Row] = {}
        self._rows: list[Row] = []

    def add(self, name: str | None, recipe: str, items: Iterable[Row | Reject]) -> None:
        """Clean and filter rows, and keep those that are sound and new.

        `name`: the source that is counted even where it gives nothing; rows name their own.
        """
        tallies = self.result.tallies
        if name is not None:
            tallies.setdefault(name, Tally(recipe))
        for item in items:
            tally = tallies.setdefault(item.source, Tally(recipe))
            tally.read += 1
            tally.unused.update(item.unused if isinstance(item, Row) else ())
            reject = item if isinstance(item, Reject) else self._judge(item, tally)
            if reject is not None:
                self._drop(reject, tally)
            else:
                tally.kept += 1
                self._rows.append(item)

    def _drop(self, reject: Reject, tally: Tally) -> None:
        tally.dropped[reject.reason] += 1
        self.result.rejects.append(reject)

    def _judge(self, row: Row, tally: Tally) -> Reject | None:
        """Why the row is left out, or None. Cheap looks come first."""
        self._cleaner.row(row, tally.mended)
        try:
            validate(row)
        except BadRow as error:
            return Reject(row.source, row.number, error.reason, error.detail, record=row.sft())
        except Unwanted as reason:
            return Reject(row.source, row.number, str(reason), bad=False, record=row.sft())
        text = row.text()
        reject = self._cleaner.reject(row, text)
        if reject is None and self.config.deduplication.exact:
            reject = self._repeated(row)
        if reject is None and (language := self._language.foreign(text)):
            reject = Reject(row.source, row.number, f"language {language}", bad=False)
        if reject is not None:
            reject.record = row.sft()
        return reject

    def _repeated(self, row: Row) -> Reject | None:
        first = self._seen.setdefault(_fingerprint(row), row)
        if first is row:
            return None
        return Reject(row.source, row.number, "exact duplicate", f"of {first.where}", bad=False)

    def _without_near_duplicates(self, rows: list[Row]) -> list[Row]:
        """The rows of which no earlier one says nearly the same."""
        config = self.config.deduplication
        texts = shared_text.distinct_texts(rows)
        sets = deduplication.shingle_sets(texts, config.shingle_chars)

        def alike(earlier: int, later: int) -> bool:
            return self._alike(rows[earlier], rows[later])

        repeated = deduplication.repeats(sets, config, alike)
        for place, first in repeated.items():
            self._forget(rows[place], "near-duplicate", f"of {rows[first].where}")
        for row, items in zip(rows, sets, strict=True):
            row.shingles = items
        return [row for place, row in enumerate(rows) if place not in repeated]

    def _alike(self, one: Row, other: Row) -> bool:
        """Whether two rows are near-duplicates as wholes, and in what differs between them."""
        config = self.config.deduplication
        sets = deduplication.shingle_sets([one.text(), other.text()], config.shingle_chars)
        return deduplication.jaccard(*sets) >= config.jaccard and not shared_text.differ(
            one, other, config.jaccard, config.shingle_chars
        )

    def finish(self) -> PreparedRows:
        """De-duplicate, measure, draw, split, part near-duplicates."""
        result, config = self.result, self.config
        by_likeness = config.deduplication.near
        rows = self._without_near_duplicates(self._rows) if by_likeness else self._rows
        result.losses = self._losses()
        rows = self._within_length(rows)
        shared_text.group(rows)
        drawn = splitting.sample(rows, config.seed, config.max_samples)
        self._not_drawn(rows, drawn)
        result.train, result.val = splitting.split(drawn, config.seed, config.split.val_fraction)
        if by_likeness:
            self._part_sides()
        return result

    def _losses(self) -> list[str]:
        """Where one filter takes most of a source: then its threshold may not fit the data."""
        return [
            f"{name}: {reason} takes {count} of {tally.read} rows; --rejects FILE shows"
            f" them, docs/DATA.md names the settings"
            for name, tally in self.result.tallies.items()
            for reason, count in tally.dropped.items()
            if count >= 10 and 2 * count > tally.read and reason not in self._bad_reasons()
        ]

    def _bad_reasons(self) -> set[str]:
        return {reject.reason for reject in self.result.bad}

    def _forget(self, row: Row, reason: str, detail: str = "", bad: bool = False) -> None:
        tally = self.result.tallies[row.source]
        tally.kept -= 1
        self._drop(Reject(row.source, row.number, reason, detail, bad, row.sft()), tally)

    def _within_length(self, rows: list[Row]) -> list[Row]:
        """The rows that the template takes and, where so configured, that are not too long."""
        if not rows:
            return rows
        name, max_length, template = lengths.settings(self.config.length)
        counts, method = lengths.count(rows, lengths.load_tokenizer(name, template))
        kept, tokens = [], []
        for row, n in zip(rows, counts, strict=True):
            if isinstance(n, str):
                self._forget(row, "refused by the chat template", n, bad=True)
            elif n > max_length and self.config.length.too_long == "drop":
                self._forget(row, "longer than max_length", f"{n} tokens")
            else:
                kept.append(row)
                tokens.append(n)
        report = lengths.summary(tokens, max_length)
        self.result.length = {"tokenizer": name, "method": method} | report
        return kept

    def _not_drawn(self, rows: list[Row], drawn: list[Row]) -> None:
        chosen = set(map(id, drawn))
        for row in rows:
            if id(row) not in chosen:
                self._forget(row, "not drawn (max_samples)")

    def _part_sides(self) -> None:
        """Take out of train what nearly repeats a validation row: the search misses nothing."""
        result = self.result
        sides = ([row.shingles for row in rows] for rows in (result.val, result.train))
        config = self.config.deduplication
        repeated = {}
        for i, j in deduplication.pairs_across(*sides, config.jaccard):
            if self._alike(result.val[i], result.train[j]):
                repeated[j] = i
        for j, i in repeated.items():
            detail = f"of {result.val[i].where} in validation"
            self._forget(result.train[j], "near-duplicate", detail)
        result.train = [row for j, row in enumerate(result.train) if j not in repeated]


def _fingerprint(row: Row) -> bytes:
    """Equal for rows that are equal in every message."""
    parts = [part for m in row.messages for part in (m["role"], m["content"])]
    if row.rejected or any(len(m) > 2 for m in row.messages):
        parts.append(json.dumps([row.messages, row.rejected], sort_keys=True))
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).digest()
