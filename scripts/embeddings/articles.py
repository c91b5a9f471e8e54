"""The articles that the vectors stand for: id, title and URL of each, in the order of the rows.

    found = load("data/raw/wikipedia.pkl", keep=250_000)     # .pkl, .jsonl or .parquet
    found.titles[0], found.urls[0]      # UTF-8 bytes, which is how every output wants them
    found.ids[0]                        # UTF-8 bytes, or an int where the file has numbers

The pickle is a list of dicts with at least id, title and url. It is read like a checkpoint, by
opcodes (pickle_reader): nothing is executed, `text` is passed over, nothing but text and numbers
is accepted.
"""

from __future__ import annotations

import bisect
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings import pickle_reader
from embeddings.pickle_reader import Refused
from kit import console

KEYS = ("id", "title", "url")
READERS = {".pkl": "pickle", ".pickle": "pickle", ".jsonl": "jsonl", ".parquet": "parquet"}
SHORT_TEXT, TEXT, FRAME = 0x8C, ord("X"), 0x95  # SHORT_BINUNICODE, BINUNICODE


@dataclass
class Articles:
    """The first `keep` articles of a file, by column, and how many it holds in all."""

    ids: list[bytes] | list[int] = field(default_factory=list)
    titles: list[bytes] = field(default_factory=list)
    urls: list[bytes] = field(default_factory=list)
    total: int = 0

    def columns(self) -> tuple[list, list, list]:
        """The three columns in the order of KEYS."""
        return self.ids, self.titles, self.urls


def load(path: str | os.PathLike, keep: int, any_order: bool = False) -> Articles:
    """The first `keep` articles at `path`, counted and in order; a Problem says what is wrong."""
    path = Path(path)
    kind = READERS.get(path.suffix)
    if kind is None:
        raise console.Misuse(f"{path}: articles come as {', '.join(READERS)}", "name such a file")
    if not path.is_file():
        raise console.Misuse(f"{path}: there are no articles", "put them there or say --articles")
    found = {"pickle": read_pickle, "jsonl": read_jsonl, "parquet": read_parquet}[kind](path, keep)
    check_text(found, path)
    check_order(found, path, keep, any_order)
    return found


def check_text(found: Articles, path: Path) -> None:
    """Every text is UTF-8, every id of the same type."""
    kinds = set(map(type, found.ids))
    if len(kinds) > 1:
        raise console.Problem(f"{path}: some ids are text and some are numbers", "write one kind")
    for key, column in zip(KEYS, found.columns(), strict=True):
        for begin in range(0, 0 if int in kinds and key == "id" else len(column), 1000):
            try:
                b"\n".join(column[begin : begin + 1000]).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                raise console.Problem(
                    f"{path}: a {key} in articles {begin}-{begin + 1000} is not UTF-8",
                    "write the file again",
                ) from None


def check_order(found: Articles, path: Path, keep: int, any_order: bool) -> None:
    """Enough articles, none twice, and ids that are numbers ascending."""
    if found.total < keep:
        raise console.Problem(
            f"{path}: {found.total} articles for {keep} vectors",
            "give the articles that were embedded, or fewer --items",
        )
    out_of_order = first_descent(found.ids)
    if out_of_order == 0:
        return
    seen: dict[Any, int] = {}
    for row, key in enumerate(found.ids):
        if seen.setdefault(key, row) != row:
            name = key if isinstance(key, int) else key.decode("utf-8", "replace")[:60]
            raise console.Problem(
                f"{path}: the id {name!r} stands at articles {seen[key]} and {row}",
                "give the articles in the order in which they were embedded, each once",
            )
    if out_of_order and not any_order:
        before, this = (int(found.ids[row]) for row in (out_of_order - 1, out_of_order))
        raise console.Problem(
            f"{path}: article {out_of_order} has the id {this} after {before}: "
            "vectors are matched by position, and this file seems shuffled",
            "give it in the order of the embedding, or --articles-order any if this is that order",
        )


def first_descent(ids: list[bytes] | list[int]) -> int | None:
    """The first article whose numeric id does not ascend; 0 if all do, None if one is no number."""
    found, before = 0, None
    try:
        for row, number in enumerate(map(int, ids)):
            if not found and before is not None and number <= before:
                found = row
            before = number
    except ValueError:
        return None
    return found


def read_jsonl(path: Path, keep: int) -> Articles:
    from kit import jsonl

    found = Articles()
    for number, row in jsonl.read(path):
        if found.total < keep:
            add(found, row, f"{path}:{number}")
        found.total += 1
    return found


def read_parquet(path: Path, keep: int) -> Articles:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [key for key in KEYS if key not in file.schema_arrow.names]
            if missing:
                raise console.Problem(f"{path}: no column {', '.join(missing)}", "add it")
            found = Articles(total=file.metadata.num_rows)
            for batch in file.iter_batches(10_000, columns=list(KEYS)):
                for row in batch.slice(0, keep - len(found.ids)).to_pylist():
                    add(found, row, f"{path}, article {len(found.ids)}")
                if len(found.ids) >= keep:
                    break
            return found
    except pa.ArrowException as error:
        raise console.Problem(
            f"{path}: not readable as Parquet: {str(error).splitlines()[0]}", "write it again"
        ) from None


def add(found: Articles, row: dict[str, Any], where: str) -> None:
    """Append one article; a Problem if a key is missing or has the wrong type."""
    for key, column in zip(KEYS, found.columns(), strict=True):
        value = row.get(key)
        if type(value) is str:
            column.append(value.encode("utf-8", "surrogatepass"))
        elif key == "id" and type(value) is int:
            column.append(value)
        else:
            kind = "is missing" if key not in row else f"is a {type(value).__name__}"
            raise console.Problem(f"{where}: the article's {key} {kind}", "mend that article")


def read_pickle(path: Path, keep: int) -> Articles:
    with open(path, "rb", buffering=0) as f:
        machine = ListMachine(f.fileno(), keep)
        pickle_reader.run(machine, path)
        return machine.found


class _Mark:
    """What stands for the one list and for each open dict on the machine's stack."""


@dataclass
class _Rows:
    """What stands there for whole records: their values are in the columns already."""

    count: int


LIST, RECORD = _Mark(), _Mark()


class ListMachine(pickle_reader.Machine):
    """A pickle machine for one long list of flat dicts, which it turns into columns.

    Where records follow each other as pickle writes them, `leap` takes them at one go, about
    twenty times as fast; everything else goes opcode by opcode. What a leap passed over is not in
    the memo: `recall` reads it again where it stands.
    """

    max_opcodes = 1 << 62  # `step` limits what they can pile up
    window = 2 << 20

    def __init__(self, fd: int, keep: int):
        super().__init__(fd)
        self.keep = keep
        self.found = Articles()
        self.gets: list[tuple[bytes, int]] | None = None  # see `learn`
        self.scan: Scan | None = None
        self.leaps: list[tuple[int, Any]] = []  # (first number in the memo, record offsets)
        self.values: dict[int, Any] = {}  # the memo's other values, by number
        self.count = 0

    def end(self) -> None:
        if self.stack != [LIST] or self.marks:
            raise Refused("it holds something other than a list of articles")
        self.stack = [{}]
        super().end()

    def step(self) -> bool:
        """One opcode; the stack holds a batch of 1000 articles at most, the memo a few of each."""
        piled, most = len(self.stack) + len(self.marks), 20_000 + 20 * (self.found.total + 4000)
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
        first, offsets = self.leaps[bisect.bisect(self.leaps, index, key=lambda run: run[0]) - 1]
        record, place = divmod(index - first, 1 + len(self.gets))
        return RECORD if place == 0 else Peek(self.fd, int(offsets[record])).value(place)

    # Records

    def set_items(self, items: list[Any]) -> None:
        if self.pop() is not RECORD:
            raise Refused("an article that is not one plain dict")
        keys = [self.decode(key, "a key") for key in items[::2]]
        row = dict(zip(keys, items[1::2], strict=True))
        if len(row) != len(keys):
            raise Refused("a key stands twice in an article")
        for key, column in zip(KEYS, self.found.columns(), strict=True):
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
        where = f"article {len(self.found.urls)}"
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
        first, last = self.scan.run(self.i)
        if first == last:
            return
        for column, texts in zip(self.found.columns(), self.scan.texts(first, last), strict=True):
            column.extend(texts)
        self.stack.append(_Rows(last - first))
        self.leaps.append((self.count, self.scan.heads[first:last] + self.base))
        self.count += (last - first) * (1 + len(self.gets))
        self.i = int(self.scan.at[last - 1])

    def append(self, items: list[Any]) -> None:
        if self.pop() is not LIST:
            raise Refused("something is appended that is not the list of articles")
        self.stack.append(LIST)
        if not all(isinstance(item, _Rows) for item in items):
            raise Refused(f"one of the articles from {self.found.total} on is not a dict")
        self.found.total += sum(item.count for item in items)
        for column in self.found.columns():
            del column[self.keep :]


class Scan:
    """All records of a buffer at once, with numpy: where their texts are, and which are regular:

    EMPTY_DICT memo MARK (BINGET text memo)... SETITEMS, a FRAME after any memo opcode.

    `at` is where each record has been read to; `good` is false where one is not as expected, and
    what is read of it then means nothing. Nothing is taken that does not begin where the record
    before it ended, so what looks like a record inside a text is none.
    """

    def __init__(self, buf: bytes, base: int, gets: list[tuple[bytes, int]], protocol: int):
        import numpy as np

        self.buf, self.base, self.gets = buf, base, gets
        self.memo, self.width = (0x94, 1) if protocol >= 4 else (ord("r"), 5)
        number = b"." * (self.width - 1)  # LONG_BINPUT says which, MEMOIZE counts
        begin = re.escape(b"}%c" % self.memo) + number + re.escape(b"(" + gets[0][0])
        found = re.compile(begin, re.DOTALL).finditer(buf)
        self.data = np.frombuffer(buf, np.uint8)
        self.heads = np.array([match.start() for match in found], "i8")
        self.at = self.heads + self.width + len(b"}(" + gets[0][0])
        self.good = self.at > 0
        ends = [get for get, _ in gets[1:]] + [b"u"]
        self.spans = [self.text(after) for after in ends] if len(self.heads) else []

    def byte(self, at: Any) -> Any:
        """The bytes at `at`; past the end, the last one."""
        return self.data.take(at, mode="clip")

    def text(self, after: bytes) -> tuple[Any, Any]:
        """Read a text, its memo opcode, an eventual FRAME, and the opcodes `after`.

        Returns where the text of each record begins and ends.
        """
        import numpy as np

        op, length = self.byte(self.at), self.byte(self.at + 1).astype("i8")
        short = op == SHORT_TEXT
        long = np.flatnonzero(~short)
        for place in (1, 2, 3):  # BINUNICODE: four bytes, little-endian
            length[long] += self.byte(self.at[long] + 1 + place).astype("i8") << (8 * place)
        begin = self.at + np.where(short, 2, 5)
        end = begin + length
        self.good &= (short | (op == TEXT)) & (self.byte(end) == self.memo)
        self.at = end + self.width
        self.at += 9 * (self.byte(self.at) == FRAME)
        for place, byte in enumerate(after):
            self.good &= self.byte(self.at + place) == byte
        self.at += len(after)
        self.good &= self.at <= len(self.data)
        return begin, end

    def run(self, at: int) -> tuple[int, int]:
        """First and last (exclusive) of the regular records that follow each other from `at` on."""
        import numpy as np

        at += 9 if self.buf[at : at + 1] == b"%c" % FRAME else 0
        first = int(np.searchsorted(self.heads, at))
        ends = self.at[first:-1]
        ends = ends + 9 * (self.byte(ends) == FRAME)
        good = self.good[first:] & (
            self.heads[first:] == np.concatenate([[at], ends])[: len(ends) + 1]
        )
        bad = np.flatnonzero(~good)
        return first, first + (int(bad[0]) if len(bad) else len(good))

    def texts(self, first: int, last: int) -> list[list[bytes]]:
        """The texts of some records, by column in the order of KEYS."""
        columns: list[list[bytes]] = [[], [], []]
        for (begin, end), (_, place) in zip(self.spans, self.gets, strict=True):
            if place < 3:
                cuts = zip(begin[first:last].tolist(), end[first:last].tolist(), strict=True)
                columns[place] = [self.buf[b:e] for b, e in cuts]
        return columns


class Peek(pickle_reader.Machine):
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
