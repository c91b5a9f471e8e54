"""The articles that the vectors stand for: id, title and URL of each, in the order of the rows.

    found = load("data/raw/wikipedia.pkl", keep=250_000)     # .pkl, .jsonl or .parquet
    found.titles[0], found.urls[0]      # UTF-8 bytes, which is how every output wants them
    found.ids[0]                        # UTF-8 bytes, or an int where the file has numbers

The pickle is a list of dicts with at least id, title and url. It is read like a checkpoint, by
opcodes (pickle_reader): nothing is executed, `text` is passed over, nothing but text and numbers
is accepted.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings import pickle_reader
from embeddings.pickle_reader import Refused
from kit import console

KEYS = ("id", "title", "url")
READERS = {".pkl": "pickle", ".pickle": "pickle", ".jsonl": "jsonl", ".parquet": "parquet"}
SHORT_TEXT, TEXT, EMPTY_DICT, MARK, FRAME = 0x8C, ord("X"), ord("}"), ord("("), 0x95
U32 = struct.Struct("<I").unpack_from


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
    try:
        numbers = list(map(int, found.ids))
    except ValueError:
        numbers = []
    if numbers and all(map(int.__lt__, numbers, numbers[1:])):
        return
    seen: dict[Any, int] = {}
    for row, key in enumerate(found.ids):
        if seen.setdefault(key, row) != row:
            name = key if isinstance(key, int) else key.decode("utf-8", "replace")[:60]
            raise console.Problem(
                f"{path}: the id {name!r} stands at articles {seen[key]} and {row}",
                "give the articles in the order in which they were embedded, each once",
            )
    if numbers and not any_order:
        row = next(i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1])
        raise console.Problem(
            f"{path}: article {row} has the id {numbers[row]} after {numbers[row - 1]}: "
            "vectors are matched by position, and this file seems shuffled",
            "give it in the order of the embedding, or --articles-order any if this is that order",
        )


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


LIST, RECORD = _Mark(), _Mark()


class ListMachine(pickle_reader.Machine):
    """A pickle machine for one long list of flat dicts, which it turns into columns.

    Where records follow each other as pickle writes them, `leap` takes them at one go, about ten
    times as fast; everything else goes opcode by opcode. What a leap passed over stands in the
    memo as the offset of its record, once for the dict and once for each value.
    """

    max_opcodes = 1 << 62  # `step` limits what they can pile up
    window = 1 << 20

    def __init__(self, fd: int, keep: int):
        super().__init__(fd)
        self.keep = keep
        self.found = Articles()
        self.gets: list[tuple[bytes, int]] | None = None  # see `learn`

    def end(self) -> None:
        if self.stack != [LIST] or self.marks:
            raise Refused("it holds something other than a list of articles")
        self.stack = [{}]
        super().end()

    def step(self) -> bool:
        """One opcode; the stack holds a batch of 1000 articles at most, the memo a few of each."""
        piled, most = len(self.stack) + len(self.marks), 20_000 + 20 * (self.found.total + 4000)
        if piled > 4000 or len(self.memo) > most:
            raise Refused("it piles up values that no list of articles needs")
        return super().step()

    def new_list(self) -> None:
        if self.stack:
            raise Refused("a list inside an article")
        self.stack.append(LIST)

    def new_dict(self) -> None:
        self.stack.append(RECORD)

    def recall(self, index: int) -> None:
        super().recall(index)
        value = self.stack[-1]
        if type(value) is int:
            first = index
            while first and self.memo[first - 1] == value:
                first -= 1
            value = self.stack[-1] = Peek(self.fd, value).value(index - first)
        if isinstance(value, _Mark):
            raise Refused("an article stands in it twice")

    def set_items(self, items: list[Any]) -> None:
        if self.pop() is not RECORD:
            raise Refused("an article that is not one plain dict")
        keys = [self.decode(key, "a key") for key in items[::2]]
        row = dict(zip(keys, items[1::2], strict=True))
        if len(row) != len(keys):
            raise Refused("a key stands twice in an article")
        self.stack.append(tuple(self.value(row, key) for key in KEYS))
        self.decoded = 0
        if self.gets is None:
            self.gets = self.learn(items[::2], keys)
        if self.gets:
            self.leap()

    def value(self, row: dict[str, Any], key: str) -> bytes | int:
        value = row.get(key)
        if type(value) is int and key == "id":
            return value
        where = f"article {self.found.total + len(self.stack) - 1}"
        return self.decode(value, f"the {key} of {where}").encode("utf-8", "surrogatepass")

    def learn(self, items: list[Any], keys: list[str]) -> list[tuple[bytes, int]]:
        """How later records recall each key, in their order: (BINGET opcode, place in KEYS or 3).

        Empty if they cannot, since the first record's keys were not memoized.
        """
        at = [next((i for i, v in enumerate(self.memo[:256]) if v is item), 0) for item in items]
        places = [KEYS.index(key) if key in KEYS else 3 for key in keys]
        gets = [(b"h%c" % i, place) for i, place in zip(at, places, strict=True)]
        return gets if all(at) else []

    def leap(self) -> None:
        """Take the records that follow in the buffer as long as each is exactly as expected.

        EMPTY_DICT memo MARK (BINGET text memo)... SETITEMS, a FRAME after any memo opcode.
        """
        buf, i, stack = self.buf, self.i, self.stack
        memo, after = (0x94, 1) if self.protocol >= 4 else (ord("r"), 5)
        first = self.gets[0][0]
        after_value = [get for get, _ in self.gets[1:]] + [b"u"]
        steps = [(a, place) for a, (_, place) in zip(after_value, self.gets, strict=True)]
        row = [b""] * 4
        try:
            while len(stack) < 3000:
                i += 9 if buf[i] == FRAME else 0
                j = i + 1 + after
                if buf[i] != EMPTY_DICT or buf[i + 1] != memo or buf[j] != MARK:
                    break
                j += 1
                if not buf.startswith(first, j):
                    break
                j += 2
                for get, place in steps:
                    op = buf[j]
                    if op == SHORT_TEXT:
                        start = j + 2
                        j = start + buf[j + 1]
                    elif op == TEXT:
                        start = j + 5
                        j = start + U32(buf, j + 1)[0]
                    else:
                        break
                    if place < 3:
                        row[place] = buf[start:j]
                    if buf[j] != memo:
                        break
                    j += after
                    if buf[j] == FRAME:
                        j += 9
                    if not buf.startswith(get, j):
                        break
                    j += 2
                else:
                    stack.append(tuple(row[:3]))
                    self.memo += [self.base + i] * (1 + len(steps))
                    i = j - 1
                    continue
                break
        except (IndexError, struct.error):  # the buffer ends inside this record
            pass
        self.i = i

    def append(self, items: list[Any]) -> None:
        if self.pop() is not LIST:
            raise Refused("something is appended that is not the list of articles")
        self.stack.append(LIST)
        if not all(type(row) is tuple and len(row) == 3 for row in items):
            raise Refused(f"one of the articles from {self.found.total} on is not a dict")
        for column, values in zip(self.found.columns(), zip(*items, strict=True), strict=True):
            column.extend(values[: max(0, self.keep - len(column))])
        self.found.total += len(items)


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
        return RECORD if index == 0 else self.memo[index]
