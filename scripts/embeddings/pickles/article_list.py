"""Read the pickle of all articles as data: a list of dicts with at least id, title and url.

    (ids, titles, urls), total = read("data/raw/wikipedia.pkl", keep=250_000)

It is read like a checkpoint, by opcodes (reader.py): nothing is executed, `text` is passed
over, nothing but text and numbers is accepted. Texts are given as their UTF-8 bytes.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings.pickles import reader
from embeddings.pickles.pickle_machine import PickleMachine
from embeddings.pickles.record_scan import KEYS, RecordScan
from embeddings.pickles.values import PickleRefused


def read(path: Path, keep: int) -> tuple[tuple[list, list, list], int]:
    """The columns of the first `keep` articles in the order of KEYS, and how many there are."""
    with open(path, "rb", buffering=0) as f:
        machine = ListMachine(f.fileno(), keep)
        reader.run(machine, path)
        return machine.columns, machine.total


class _Mark:
    """Marks the one list and for each open dict on the machine's stack."""


@dataclass
class _Rows:
    """Marks whole records: their values are in the columns already."""

    count: int


LIST, RECORD = _Mark(), _Mark()


class ListMachine(PickleMachine):
    """A pickle machine for one long list of flat dicts, which it turns into columns.

    Where records follow each other as pickle writes them, `leap` takes them at one go, about
    twenty times as fast; everything else goes opcode by opcode. What a leap passed over is not in
    the memo: `recall` reads it again where it stands.
    """

    max_opcodes = 1 << 62  # `step` limits what they can pile up
    window = 4 << 20
    surrogates = "surrogatepass"  # its texts go into a pickle as they came

    def __init__(self, fd: int, keep: int):
        super().__init__(fd)
        self.keep = keep
        self.columns: tuple[list, list, list] = ([], [], [])
        self.total = 0
        self.gets: list[tuple[bytes, int]] | None = None  # see `learn`
        self.scan: RecordScan | None = None
        #: of each leap: the first number in the memo, where it began, and each record after those
        self.leaps: list[tuple[int, int, Any, Any]] = []
        self.values: dict[int, Any] = {}  # the memo's other values, by number
        self.count = 0

    def end(self) -> None:
        if self.stack != [LIST] or self.marks:
            raise PickleRefused("it holds something other than a list of articles")
        self.stack = [{}]
        super().end()

    def step(self) -> bool:
        """One opcode; the stack holds a batch of 1000 articles at most, the memo a few of each."""
        piled, most = len(self.stack) + len(self.marks), 20_000 + 20 * (self.total + 4000)
        if piled > 4000 or len(self.values) > most:
            raise PickleRefused("it piles up values that no list of articles needs")
        return super().step()

    def new_list(self) -> None:
        if self.stack:
            raise PickleRefused("a list inside an article")
        self.stack.append(LIST)

    def new_dict(self) -> None:
        self.stack.append(RECORD)

    # The memo

    def remembered(self) -> int:
        return self.count

    def memoize(self, index: int) -> None:
        if index > self.count:
            raise PickleRefused(f"it remembers a value as number {index} after {self.count} others")
        self.values[index] = self.top(object)
        self.count = max(self.count, index + 1)

    def recall(self, index: int) -> None:
        if index >= self.count:
            raise PickleRefused(f"it recalls value {index} of {self.count}")
        value = self.values[index] if index in self.values else self.look_up(index)
        if isinstance(value, (_Mark, _Rows)):
            raise PickleRefused("an article is in it twice")
        self.stack.append(value)

    def look_up(self, index: int) -> Any:
        """A value that `leap` passed over: each record has numbers for its dict and its values."""
        at = bisect(self.leaps, index, key=lambda leap: leap[0]) - 1
        first, base, numbers, offsets = self.leaps[at]
        record = int(numbers.searchsorted(index - first, "right")) - 1
        place = index - first - int(numbers[record])
        return RECORD if place == 0 else Peek(self.fd, base + int(offsets[record])).value(place)

    # Records

    def set_items(self, items: list[Any]) -> None:
        if self.pop() is not RECORD:
            raise PickleRefused("an article that is not one plain dict")
        keys = [self.decode(key, "a key") for key in items[::2]]
        row = dict(zip(keys, items[1::2], strict=True))
        if len(row) != len(keys):
            raise PickleRefused("an article has a key twice")
        for key, column in zip(KEYS, self.columns, strict=True):
            column.append(self.value(row, key))
        self.stack.append(_Rows(1))
        self.decoded = 0
        if self.gets is None:
            self.gets = self.learn(items[::2], keys)
        if self.gets:
            self.leap()

    def value(self, row: dict[str, Any], key: str) -> bytes | int:
        value = row.get(key)
        if type(value) is int and key == "id":
            return value
        where = f"article {len(self.columns[2])}"
        return self.decode(value, f"the {key} of {where}").encode("utf-8", "surrogatepass")

    def learn(self, items: list[Any], keys: list[str]) -> list[tuple[bytes, int]]:
        """How later records recall each key, in their order: (BINGET opcode, place in KEYS or 3).

        Empty if they cannot, since the first record's keys were not memoized.
        """
        known = {id(value): index for index, value in self.values.items() if index < 256}
        at = [known.get(id(item), 0) for item in items]
        places = [KEYS.index(key) if key in KEYS else 3 for key in keys]
        gets = [(b"h%c" % i, place) for i, place in zip(at, places, strict=True)]
        return gets if all(at) else []

    def leap(self) -> None:
        """Take the records that follow in the buffer as long as each is exactly as expected."""
        if self.scan is None or self.scan.base != self.base:
            self.scan = RecordScan(self.buf, self.base, self.gets, self.protocol)
        first, last = self.scan.run(self.i, self.count)
        if first == last:
            return
        for column, values in zip(self.columns, self.scan.columns(first, last), strict=True):
            column.extend(values)
        self.stack.append(_Rows(last - first))
        memos = self.scan.memos[first:last]
        numbers, offsets = memos.cumsum() - memos, self.scan.heads[first:last]
        self.leaps.append((self.count, self.base, numbers.astype("u4"), offsets.astype("u4")))
        self.count += int(memos.sum())
        self.i = int(self.scan.at[last - 1])

    def append(self, items: list[Any]) -> None:
        if self.pop() is not LIST:
            raise PickleRefused("something is appended that is not the list of articles")
        self.stack.append(LIST)
        if not all(isinstance(item, _Rows) for item in items):
            raise PickleRefused(f"one of the articles from {self.total} on is not a dict")
        self.total += sum(item.count for item in items)
        for column in self.columns:
            del column[self.keep :]


class Peek(PickleMachine):
    """Reads one value again out of a record that `leap` passed over."""

    def __init__(self, fd: int, offset: int):
        super().__init__(fd)
        self.base = offset

    def recall(self, index: int) -> None:
        self.stack.append(None)

    def memoize(self, index: int) -> None:
        self.memo.append(self.stack[-1])

    def value(self, index: int) -> Any:
        """What the record memoizes as its `index`th."""
        while len(self.memo) <= index:
            self.step()
        return self.memo[index]
