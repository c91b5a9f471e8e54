"""Rows in, training files out: clean, validate, filter, de-duplicate, draw, split, measure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from corpus import deduplication, lengths, splitting
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
    """The rows of both sides, the rejects, a tally per source, the lengths."""

    train: list[Row] = dataclasses.field(default_factory=list)
    val: list[Row] = dataclasses.field(default_factory=list)
    rejects: list[Reject] = dataclasses.field(default_factory=list)
    tallies: dict[str, Tally] = dataclasses.field(default_factory=dict)
    length: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bad(self) -> list[Reject]:
        return [r for r in self.rejects if r.bad]

    def shortage(self, config) -> console.Problem | None:
        """The Problem of too few rows, or None. config: config.schemas.data.DataConfig."""
        left = len(self.train) + len(self.val)
        if not left:
            return console.Problem(f"no row is left ({self.reasons()})", self._remedy())
        if config.split.val_fraction and not self.val:
            rows = "1 row is" if left == 1 else f"{left} rows are"
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
        near = config.deduplication
        self._near = deduplication.NearDuplicates(near) if near.near else None
        self._seen: dict[bytes, str] = {}
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
        reject = self._cleaner.reject(row)
        if reject is None and self.config.deduplication.exact:
            reject = self._repeated(row)
        if reject is None and (language := self._language.foreign(row.text())):
            reject = Reject(row.source, row.number, f"language {language}", bad=False)
        if reject is None and self._near is not None:
            reject = self._nearly_repeated(row)
        if reject is not None:
            reject.record = row.sft()
        return reject

    def _repeated(self, row: Row) -> Reject | None:
        said = json.dumps([row.messages, row.rejected], sort_keys=True).encode()
        first = self._seen.setdefault(hashlib.blake2b(said, digest_size=16).digest(), row.where)
        if first == row.where:
            return None
        return Reject(row.source, row.number, "exact duplicate", f"of {first}", bad=False)

    def _nearly_repeated(self, row: Row) -> Reject | None:
        width = self.config.deduplication.shingle_chars
        row.shingles = deduplication.shingles(row.text(), width)
        place = self._near.add(row.shingles)
        if place is None:
            return None
        first = self._rows[place].where
        return Reject(row.source, row.number, "near-duplicate", f"of {first}", bad=False)

    def finish(self) -> PreparedRows:
        """Measure, draw, split, part near-duplicates."""
        result, config = self.result, self.config
        rows = self._within_length(self._rows)
        drawn = splitting.sample(rows, config.seed, config.max_samples)
        self._not_drawn(rows, drawn)
        result.train, result.val = splitting.split(drawn, config.seed, config.split.val_fraction)
        if self._near is not None:
            self._part()
        return result

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

    def _part(self) -> None:
        """Take out of train what nearly repeats a validation row: the search misses nothing."""
        result = self.result
        sides = ([row.shingles for row in rows] for rows in (result.val, result.train))
        pairs = deduplication.pairs_across(*sides, self.config.deduplication.jaccard)
        found = {j: i for i, j in pairs}
        for j, i in found.items():
            detail = f"of {result.val[i].where} in validation"
            self._forget(result.train[j], "near-duplicate", detail)
        result.train = [row for j, row in enumerate(result.train) if j not in found]
