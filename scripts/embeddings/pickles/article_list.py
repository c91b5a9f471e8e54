"""Read the pickle of all articles as data: a list of dicts with at least id, title and url.

    (ids, titles, urls), total = read("data/raw/wikipedia.pkl", keep=250_000)

It is read like a checkpoint, by opcodes (pickle_reader): nothing is executed, `text` is passed
over, nothing but text and numbers is accepted. Texts are given as their UTF-8 bytes.
"""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings.articles import KEYS
from embeddings.pickles import reader
from embeddings.pickles.values import Refused

SHORT_TEXT, TEXT, GET, LONG_GET, SIGNED = 0x8C, ord("X"), ord("h"), ord("j"), ord("J")
FRAME = 0x95
TEXTS, NUMBERS = (SHORT_TEXT, TEXT), (ord("K"), ord("M"), SIGNED)
SIZES = {  # opcodes of plain values, and the bytes that follow them (of a text: its length)
    SHORT_TEXT: 1, TEXT: 4, GET: 1, LONG_GET: 4, ord("K"): 1, ord("M"): 2, SIGNED: 4,
    ord("G"): 8, ord("N"): 0, 0x88: 0, 0x89: 0,
}  # fmt: skip


def read(path: Path, keep: int) -> tuple[tuple[list, list, list], int]:
    """The columns of the first `keep` articles in the order of KEYS, and how many there are."""
    with open(path, "rb", buffering=0) as f:
        machine = ListMachine(f.fileno(), keep)
        reader.run(machine, path)
        return machine.columns, machine.total


class _Mark:
    """What stands for the one list and for each open dict on the machine's stack."""


@dataclass
class _Rows:
    """What stands there for whole records: their values are in the columns already."""

    count: int


LIST, RECORD = _Mark(), _Mark()


class ListMachine(reader.Machine):
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
        self.scan: Scan | None = None
        #: of each leap: the first number in the memo, where it began, and each record after those
        self.leaps: list[tuple[int, int, Any, Any]] = []
        self.values: dict[int, Any] = {}  # the memo's other values, by number
        self.count = 0

    def end(self) -> None:
        if self.stack != [LIST] or self.marks:
            raise Refused("it holds something other than a list of articles")
        self.stack = [{}]
        super().end()

    def step(self) -> bool:
        """One opcode; the stack holds a batch of 1000 articles at most, the memo a few of each."""
        piled, most = len(self.stack) + len(self.marks), 20_000 + 20 * (self.total + 4000)
        if piled > 4000 or len(self.values) > most:
            raise Refused("it piles up values that no list of articles needs")
        return super().step()

    def new_list(self) -> None:
        if self.stack:
            raise Refused("a list inside an article")
        self.stack.append(LIST)

    def new_dict(self) -> None:
        self.stack.append(RECORD)

    # The memo

    def remembered(self) -> int:
        return self.count

    def memoize(self, index: int) -> None:
        if index > self.count:
            raise Refused(f"it remembers a value as number {index} after {self.count} others")
        self.values[index] = self.top(object)
        self.count = max(self.count, index + 1)

    def recall(self, index: int) -> None:
        if index >= self.count:
            raise Refused(f"it recalls value {index} of {self.count}")
        value = self.values[index] if index in self.values else self.look_up(index)
        if isinstance(value, (_Mark, _Rows)):
            raise Refused("an article stands in it twice")
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
            raise Refused("an article that is not one plain dict")
        keys = [self.decode(key, "a key") for key in items[::2]]
        row = dict(zip(keys, items[1::2], strict=True))
        if len(row) != len(keys):
            raise Refused("a key stands twice in an article")
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
            self.scan = Scan(self.buf, self.base, self.gets, self.protocol)
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
            raise Refused("something is appended that is not the list of articles")
        self.stack.append(LIST)
        if not all(isinstance(item, _Rows) for item in items):
            raise Refused(f"one of the articles from {self.total} on is not a dict")
        self.total += sum(item.count for item in items)
        for column in self.columns:
            del column[self.keep :]


class Scan:
    """All records of a buffer at once, with numpy: where their values are, and which are regular:

    EMPTY_DICT memo MARK (BINGET value)... SETITEMS, a memo opcode after each text, a FRAME after
    any value. The id is a text or a number, title and url are texts, other values may be recalled.

    `at` is where each record has been read to; `good` is false where one is not as expected, and
    what is read of it then means nothing. Nothing is taken that does not begin where the record
    before it ended, so what looks like a record inside a text is none.
    """

    def __init__(self, buf: bytes, base: int, gets: list[tuple[bytes, int]], protocol: int):
        import numpy as np

        self.buf, self.base, self.gets = buf, base, gets
        self.memo, self.width = (0x94, 1) if protocol >= 4 else (ord("r"), 5)
        self.data = np.frombuffer(buf, np.uint8)
        self.size = np.zeros(256, "i8")
        self.size[list(SIZES)] = list(SIZES.values())
        self.heads = np.array(self.candidates(), "i8")
        self.at = self.heads + 1 + self.width
        self.good = self.byte(self.heads + 1) == self.memo
        self.expect(b"(" + gets[0][0])
        self.heads, self.at = self.heads[self.good], self.at[self.good]
        self.good = self.good[self.good]
        self.memos = np.ones(len(self.heads), "i8")  # how many values a record memoizes
        self.recalled = np.full(len(self.heads), -1)  # the highest number that it recalls
        ends = [get for get, _ in gets[1:]] + [b"u"]
        self.values = [self.value(gets[i][1], after) for i, after in enumerate(ends)]
        self.last = self.breaks()

    def candidates(self) -> list[int]:
        """Where a record could begin: at every brace, unless the texts are full of them."""
        found, find, at = [], self.buf.find, -1
        while (at := find(b"}", at + 1)) >= 0:  # memchr: three times as fast as the regex
            found.append(at)
            if len(found) > len(self.buf) >> 7:
                break
        else:
            return found
        number = b"." * (self.width - 1)  # LONG_BINPUT says which, MEMOIZE counts
        begin = re.escape(b"}%c" % self.memo) + number + re.escape(b"(" + self.gets[0][0])
        return [m.start() for m in re.compile(begin, re.DOTALL).finditer(self.buf)]

    def expect(self, opcodes: bytes) -> None:
        """Pass over these opcodes in every record."""
        for place, byte in enumerate(opcodes):
            self.good &= self.byte(self.at + place) == byte
        self.at = self.at + len(opcodes)

    def byte(self, at: Any) -> Any:
        """The bytes at `at`; past the end, the last one."""
        return self.data.take(at, mode="clip")

    def value(self, place: int, after: bytes) -> tuple[Any, Any, Any]:
        """Read the value of a key, an eventual FRAME, and the opcodes `after`.

        Returns for each record whether it is a text; where that begins (or the number); its end.
        """
        import numpy as np

        op = self.byte(self.at)
        allowed = np.zeros(256, bool)
        allowed[list(TEXTS + (NUMBERS if place == 0 else tuple(SIZES) if place == 3 else ()))] = 1
        size, number = self.size[op], self.byte(self.at + 1).astype("i8")
        wide = np.flatnonzero(size > 1)
        for more in (1, 2, 3):  # little-endian
            part = self.byte(self.at[wide] + 1 + more).astype("i8") << (8 * more)
            number[wide] += np.where(size[wide] > more, part, 0)
        text = (op == SHORT_TEXT) | (op == TEXT)
        begin = self.at + 1 + size
        end = begin + np.where(text, number, 0)
        self.good &= allowed[op] & (~text | (self.byte(end) == self.memo))
        self.memos += text
        recall = (op == GET) | (op == LONG_GET)
        np.maximum(self.recalled, np.where(recall, number, -1), out=self.recalled)
        self.at = end + self.width * text
        self.at += 9 * (self.byte(self.at) == FRAME)
        self.expect(after)
        self.good &= self.at <= len(self.data)
        negative = (op == SIGNED) & (number >= 1 << 31)
        return text, np.where(text, begin, number - (negative.astype("i8") << 32)), end

    def breaks(self) -> Any:
        """The records after which another does not follow at once, or not a regular one."""
        import numpy as np

        ends = self.at + 9 * (self.byte(self.at) == FRAME)
        follows = self.good[1:] & (self.heads[1:] == ends[:-1])
        return np.flatnonzero(~np.append(follows, False))

    def run(self, at: int, known: int) -> tuple[int, int]:
        """First and last (exclusive) of the regular records that follow each other from `at` on.

        They recall nothing but the first `known` values of the memo.
        """
        at += 9 if self.buf[at : at + 1] == b"%c" % FRAME else 0
        first = int(self.heads.searchsorted(at))
        if first == len(self.heads) or self.heads[first] != at or not self.good[first]:
            return first, first
        last = int(self.last[self.last.searchsorted(first)]) + 1
        unknown = (self.recalled[first:last] >= known).nonzero()[0]
        return first, first + int(unknown[0]) if len(unknown) else last

    def columns(self, first: int, last: int) -> list[list]:
        """The values of some records, by column in the order of KEYS."""
        found: list[list] = [[], [], []]
        for columns, (_, place) in zip(self.values, self.gets, strict=True):
            if place < 3:
                text, begin, end = (column[first:last] for column in columns)
                if text.all():
                    cuts = zip(begin.tolist(), end.tolist(), strict=True)
                    found[place] = [self.buf[b:e] for b, e in cuts]
                else:
                    parts = zip(text.tolist(), begin.tolist(), end.tolist(), strict=True)
                    found[place] = [self.buf[b:e] if t else b for t, b, e in parts]
        return found


class Peek(reader.Machine):
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
