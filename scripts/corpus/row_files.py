"""The one reader of row files: for training, evaluation and RLHF, each row judged.

rows = RowFile("data/processed/train_sft.jsonl")
for row in rows: ...            # corpus.rows.Row
rows.unused, rows.left_out      # counted on the way
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corpus import formats, judge
from corpus.rows import BadRow, Row, Unwanted
from corpus.sources import readers
from kit import console, jsonl

SHOWN = 20  # bad rows that are printed; the rest is only counted
OURS = ("source", "topic")  # keys that data_prep.py writes for people


def sound_rows(record: dict[str, Any]) -> list[Row]:
    """The rows of one record, judged. Raises BadRow or Unwanted."""
    rows = formats.rows_of(record)
    for row in rows:
        judge.validate(row)
    return rows


class RowFile:
    """The rows of a JSON Lines file, one after another.

    At the end a Problem counts the bad rows, each printed with its line. `limit`: records to read.
    `convert`: what makes rows of a record (sound_rows); it raises BadRow or Unwanted.
    """

    def __init__(
        self,
        path: Path,
        limit: int | None = None,
        convert: Callable[[dict[str, Any]], list[Any]] = sound_rows,
    ):
        self.path, self.limit, self.convert = Path(path), limit, convert
        self.read = 0  # records
        self.unused: Counter[str] = Counter()  # keys that no row uses
        self.left_out: Counter[str] = Counter()  # sound rows that are not to be learned, by reason

    def __iter__(self) -> Iterator[Any]:
        bad: list[str] = []
        self._refuse_pointer()
        for number, record in itertools.islice(jsonl.read(self.path), self.limit):
            self.read += 1
            try:
                rows = self.convert(record)
            except Unwanted as reason:
                self.left_out[str(reason)] += 1
                continue
            except BadRow as error:
                bad.append(f"{self.path}:{number}: {error}")
                continue
            for row in rows:
                row.source, row.number = str(self.path), number
                self.unused.update(key for key in row.unused if key not in OURS)
                yield row
        if bad:
            self._refuse(bad)

    def _refuse_pointer(self) -> None:
        with open(self.path, "rb") as f:
            if pointer := readers.lfs_pointer(f.read(200)):
                raise console.Problem(f"{self.path}: {pointer}", readers.LFS_REMEDY)

    def _refuse(self, bad: list[str]) -> None:
        for line in bad[:SHOWN]:
            console.note(line)
        first = bad[0].replace(str(self.path), self.path.name, 1)
        raise console.Problem(
            f"{self.path}: {len(bad)} of {self.read} rows cannot be used ({first})",
            "correct or delete them; data_prep.py --set bad_rows=drop leaves such rows out",
        )
