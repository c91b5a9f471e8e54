"""Rows in blocks of at most 1 MB, and what is measured on them in one pass.

    for block in blocks(file, shard, shard.end - shard.start):      # (n, dim), C order
        statistics.add(block)

A block is valid until the next one is asked for: its memory is used again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from embeddings.shards import Shard
from kit import console

BLOCK = 1 << 20  # larger ones leave the processor's cache; from 4 MB on it takes twice as long
LISTED = 1000  # row numbers of NaN and Inf that are kept


def blocks(file: IO[bytes], shard: Shard, rows: int) -> Iterator[Any]:
    """The first `rows` rows of `shard`, as arrays (n, dim) of its dtype in C order.

    `file`: the shard opened unbuffered. Fortran order is turned, protocol 2's Latin-1 decoded.
    """
    if shard.fortran and shard.data.escaped:
        raise console.Problem(
            f"{shard.path}: an array in Fortran order in pickle protocol 2",
            "write it with protocol 3 or newer, or as np.ascontiguousarray(...)",
        )
    if shard.fortran:
        return _turned(file, shard, rows)
    return _escaped(file, shard, rows) if shard.data.escaped else _plain(file, shard, rows)


def _short(shard: Shard) -> console.Problem:
    return console.Problem(
        f"{shard.path}: its rows end early", "it changed while it was read; fetch it again"
    )


def _rows_per_block(shard: Shard) -> int:
    return max(1, BLOCK // (shard.dim * max(4, int(shard.dtype[2:]))))


def _plain(file: IO[bytes], shard: Shard, rows: int) -> Iterator[Any]:
    import numpy as np

    per_block = _rows_per_block(shard)
    buffer = np.empty((min(per_block, rows), shard.dim), shard.dtype)
    file.seek(shard.data.offset)
    for begin in range(0, rows, per_block):
        block = buffer[: min(per_block, rows - begin)]
        _read_into(file, memoryview(block).cast("B"), shard)
        yield block


def _read_into(file: IO[bytes], view: memoryview, shard: Shard) -> None:
    while view:
        n = file.readinto(view)
        if not n:
            raise _short(shard)
        view = view[n:]


def _turned(file: IO[bytes], shard: Shard, rows: int) -> Iterator[Any]:
    """Fortran order, column after column: take the same stretch of every column."""
    import numpy as np

    size, all_rows = int(shard.dtype[2:]), shard.end - shard.start
    per_block = _rows_per_block(shard)
    for begin in range(0, rows, per_block):
        n = min(per_block, rows - begin)
        columns = np.empty((shard.dim, n), shard.dtype)
        for at, column in enumerate(columns):
            file.seek(shard.data.offset + (at * all_rows + begin) * size)
            _read_into(file, memoryview(column).cast("B"), shard)
        yield np.ascontiguousarray(columns.T)


def _escaped(file: IO[bytes], shard: Shard, rows: int) -> Iterator[Any]:
    """Protocol 2: each byte is a Latin-1 character in UTF-8."""
    import codecs

    import numpy as np

    decoder = codecs.getincrementaldecoder("utf-8")()
    row_bytes = shard.dim * int(shard.dtype[2:])
    size, remaining = _rows_per_block(shard) * row_bytes, shard.data.length
    todo, have = (shard.end - shard.start) * row_bytes, bytearray()
    wanted = rows * row_bytes
    file.seek(shard.data.offset)
    try:
        while remaining:
            raw = file.read(min(remaining, BLOCK // 4))
            if not raw:
                raise _short(shard)
            remaining -= len(raw)
            have += decoder.decode(raw, final=not remaining).encode("latin-1")
            while len(have) >= size or (not remaining and have):
                n = min(len(have), size)
                todo -= n
                use = min(n, wanted) // row_bytes * row_bytes
                if use:
                    yield np.frombuffer(bytes(have[:use]), shard.dtype).reshape(-1, shard.dim)
                wanted -= use
                del have[:n]
    except UnicodeError:
        todo = -1
    if todo:
        raise console.Problem(
            f"{shard.path}: its rows are not as many bytes as its shape needs",
            "write or fetch it again",
        )


@dataclass
class Statistics:
    """Norms of the rows seen so far, and which rows hold NaN or Inf.

    Mean and variance are joined block by block (Chan, Golub and LeVeque, 1983), over the rows
    with a finite norm.
    """

    rows: int = 0
    counted: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    nan: int = 0
    inf: int = 0
    nan_rows: list[int] = field(default_factory=list)
    inf_rows: list[int] = field(default_factory=list)

    def add(self, block: Any) -> None:
        """Take in the next rows, (n, dim) of float16, 32 or 64."""
        import numpy as np

        norms = self.norms(block)
        finite = norms[np.isfinite(norms)]
        self.rows += len(block)
        if len(finite):
            with np.errstate(over="ignore", invalid="ignore"):
                mean = float(finite.mean())
                squares = float(((finite - mean) ** 2).sum())
            low, high = float(finite.min()), float(finite.max())
            self.join(Statistics(0, len(finite), mean, squares, low, high))

    def norms(self, block: Any) -> Any:
        """The Euclidean norms in float64; NaN and Inf are noted with their row numbers."""
        import numpy as np

        with np.errstate(all="ignore"):
            squares = dot(block.astype("f4") if block.dtype == np.float16 else block)
            norms = np.sqrt(squares.astype("f8"))
            # Finite values can overflow or vanish when squared: look at those rows again.
            odd = np.flatnonzero(~((squares > 1e-30) & (squares < np.inf)))
            if len(odd):
                norms[odd] = self.look_again(block[odd].astype("f8"), odd + self.rows)
        return norms

    def look_again(self, rows: Any, numbers: Any) -> Any:
        """Norms of a few rows, scaled so that only NaN and Inf are not finite."""
        import numpy as np

        nan, inf = np.isnan(rows).any(axis=1), np.isinf(rows).any(axis=1)
        self.nan += int(nan.sum())
        self.inf += int(inf.sum())
        self.nan_rows += numbers[nan][: LISTED - len(self.nan_rows)].tolist()
        self.inf_rows += numbers[inf][: LISTED - len(self.inf_rows)].tolist()
        largest = np.abs(rows).max(axis=1)
        self.zeros += int((largest == 0).sum())
        scale = np.where(largest > 0, largest, 1)
        norms = scale * np.sqrt(dot(rows / scale[:, None]))
        return np.where(nan | inf, np.nan, norms)

    def join(self, other: Statistics) -> None:
        """Add what `other` saw of the norms."""
        both = self.counted + other.counted
        delta = other.mean - self.mean
        self.mean += delta * other.counted / both
        self.squares += other.squares + delta * delta * self.counted * other.counted / both
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.counted = both

    def join_rows(self, part: Statistics) -> None:
        """Add the statistics of the rows that follow those seen so far."""
        for name in ("nan_rows", "inf_rows"):
            numbers = getattr(self, name)
            numbers += [self.rows + n for n in getattr(part, name)][: LISTED - len(numbers)]
        for name in ("rows", "zeros", "nan", "inf"):
            setattr(self, name, getattr(self, name) + getattr(part, name))
        if part.counted:
            self.join(part)

    def metrics(self) -> dict[str, Any]:
        """quality_metrics of the merged file."""
        known = self.counted > 0
        return {
            "mean_norm": self.mean if known else math.nan,
            "std_norm": math.sqrt(self.squares / self.counted) if known else math.nan,
            "min_norm": self.low if known else math.nan,
            "max_norm": self.high if known else math.nan,
            "has_nan": self.nan > 0,
            "has_inf": self.inf > 0,
        }

    def state(self) -> dict[str, Any]:
        """All of it, as JSON keeps it; Statistics(**state) continues from there."""
        return asdict(self)


def dot(block: Any) -> Any:
    """The dot product of each row with itself."""
    import numpy as np

    if hasattr(np, "vecdot"):
        return np.vecdot(block, block)
    return np.einsum("ij,ij->i", block, block)


def digest_name() -> str:
    """The fastest digest at hand: XXH3 (20 times as fast as SHA-256) where xxhash is installed."""
    try:
        import xxhash  # noqa: F401

        return "xxh3_128"
    except ImportError:
        return "sha256"


def digest(name: str) -> Any:
    """A new hash object called `name`."""
    if name == "xxh3_128":
        import xxhash

        return xxhash.xxh3_128()
    if name == "sha256":
        return hashlib.sha256()
    raise console.Problem(f"an unknown digest {name[:40]!a} in a manifest", "merge again")


def write(file: IO[bytes], data: Any, offset: int) -> None:
    """Write all of `data` (anything with a buffer) at `offset` of an unbuffered file."""
    view = memoryview(data).cast("B")
    file.seek(offset)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        error.filename = file.name
        raise
