"""The shards in the embeddings folder: what each holds, and whether together they are complete.

    shards = load(Path("data/embeddings"), "cluster*_gpu*.pkl")
    check(shards, items=250_000)              # a Problem names both files and their ranges

A range `items 0-15626` begins at 0 and ends before 15626, as in Python.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings.pickles import reader, values
from kit import console, publish

PATTERN = "cluster*_gpu*.pkl"
MANIFEST = "shards.manifest.json"
FLOATS = ("f2", "f4", "f8")
NAMES = re.compile(r"[A-Za-z0-9_*?\[][A-Za-z0-9._+=@*?\[\]-]*")


@dataclass(frozen=True)
class Shard:
    """One checkpoint file: rows `start` to `end`, each of `dim` numbers of `dtype` ('<f4')."""

    path: Path
    start: int
    end: int
    dim: int
    dtype: str
    model: str | None
    data: values.PickleBytes
    fortran: bool
    about: dict[str, Any]  # cluster, gpu, timestamp as the file gives them
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return f"{self.name} (items {self.start}-{self.end})"


def load(folder: Path, pattern: str = PATTERN) -> list[Shard]:
    """Every shard in `folder`, sorted by first item. Opens and reads each, executes nothing."""
    paths = sorted(p for p in folder.glob(pattern) if p.is_file())
    return sorted((read(p) for p in paths), key=lambda s: (s.start, s.end, s.name))


def read(path: Path) -> Shard:
    """The checkpoint at `path`; a Problem names what is missing or of the wrong kind."""
    stat = path.stat()
    fields = reader.read(path)
    array = fields.get("embeddings")
    if not isinstance(array, values.PickleArray):
        raise bad(path, f"its 'embeddings' {absent(fields, 'embeddings')}")
    code, order = array.dtype.code, array.dtype.order
    if len(array.shape) != 2 or 0 in array.shape:
        raise bad(path, f"its embeddings have the shape {array.shape}")
    if code not in FLOATS or order != "<":
        raise bad(path, f"its embeddings have the type {order}{code}")
    numbers = [fields.get(key) for key in ("start_index", "end_index")]
    for key, number in zip(("start_index", "end_index"), numbers, strict=True):
        if type(number) is not int or number < 0:
            raise bad(path, f"its {key!r} {absent(fields, key)}")
    if numbers[1] - numbers[0] != array.shape[0]:
        raise bad(path, f"it holds {array.shape[0]} rows for items {numbers[0]}-{numbers[1]}")
    model = fields.get("model")
    if not (model is None or isinstance(model, str)):
        raise bad(path, f"its 'model' {absent(fields, 'model')}")
    about = {key: fields.get(key) for key in ("cluster", "gpu", "timestamp")}
    return Shard(
        path, *numbers, array.shape[1], order + code, model, array.data, array.fortran,
        {k: v for k, v in about.items() if type(v) is str or fits_json(v)},
        stat.st_size, stat.st_mtime_ns,
    )  # fmt: skip


def fits_json(value: Any) -> bool:
    """Whether it is a number that JSON can hold."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def absent(fields: dict[str, Any], key: str) -> str:
    return f"is a {values.kind_name(fields[key])}" if key in fields else "is missing"


def bad(path: Path, what: str) -> console.Problem:
    remedy = (
        "write it again: {'embeddings': 2-D little-endian float16, 32 or 64 array, 'start_index', "
        "'end_index', 'model'}"
    )
    return console.Problem(f"{path}: {what}", remedy)


def missing(shards: list[Shard], items: int) -> list[tuple[int, int]]:
    """The ranges of 0 to `items` that no shard holds."""
    gaps, reached = [], 0
    for shard in sorted(shards, key=lambda s: s.start):
        if shard.start > reached:
            gaps.append((reached, min(shard.start, items)))
        reached = max(reached, shard.end)
        if reached >= items:
            break
    if reached < items:
        gaps.append((reached, items))
    return [(a, b) for a, b in gaps if a < b]


def ranges(gaps: list[tuple[int, int]]) -> str:
    """'items 0-100, 300-400', ten of them at most."""
    return "items " + console.few([f"{a}-{b}" for a, b in gaps], 10)


def check(shards: list[Shard], items: int, where: Path) -> None:
    """All of one kind, and each of the first `items` items exactly once."""
    if not shards:
        raise console.Problem(f"{where}: no shards", "fetch them: leave out --merge-only")
    for shard in shards[1:]:
        same_kind(shards[0], shard)
    for left, right in zip(shards, shards[1:], strict=False):
        if (left.start, left.end) == (right.start, right.end):
            raise console.Problem(f"{left} and {right} are duplicates", "delete one of them")
        if right.start < left.end:
            raise console.Problem(
                f"{left} and {right} overlap", "delete or write again one of them"
            )
    gaps = missing(shards, items)
    if gaps:
        raise console.Problem(f"{where}: {ranges(gaps)} are missing, {around(shards, gaps[0])}",
                              "fetch or write the missing shards")  # fmt: skip


def same_kind(one: Shard, other: Shard) -> None:
    """Same dimension, dtype and model, or a Problem that names both."""
    for what in ("dim", "dtype", "model"):
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            word = {"dim": "dimension", "dtype": "type"}.get(what, what)
            raise console.Problem(
                f"{one} has the {word} {a} and {other} has {b}",
                "merge shards of one model and one type; write the others again",
            )


def around(shards: list[Shard], gap: tuple[int, int]) -> str:
    """The two files between which a gap is."""
    before = [s for s in shards if s.end <= gap[0]]
    after = [s for s in shards if s.start >= gap[1]]
    if before and after:
        return f"between {before[-1]} and {after[0]}"
    return f"after {before[-1]}" if before else f"before {after[0]}" if after else "all of them"


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """{file name: {size, sha256, ...}} of every producer's manifest in `folder`."""
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"*{MANIFEST}")):
        for name, entry in parse_manifest(path.read_bytes(), str(path)).items():
            known = entries.setdefault(name, entry)
            if known["sha256"] != entry["sha256"]:
                raise console.Problem(
                    f"{path}: {name} has another SHA-256 than in a manifest beside it",
                    "delete the older manifest, or fetch again",
                )
    return entries


def parse_manifest(raw: bytes, where: str) -> dict[str, dict[str, Any]]:
    """The files of a producer's manifest (write_manifest.py), checked."""
    try:
        files = json.loads(raw)["files"]
        for entry in files.values():
            entry["sha256"] = entry["sha256"].lower()
            if type(entry["size"]) is not int or not publish.SHA256.fullmatch(entry["sha256"]):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise console.Problem(f"{where}: not a manifest of shards", "write it again with "
                              "write_manifest.py, or delete it") from None  # fmt: skip
    return files


def check_pattern(pattern: str) -> None:
    """A Misuse unless shells, rsyncs and Python agree on what the pattern means."""
    if not NAMES.fullmatch(pattern) or "**" in pattern:
        raise console.Misuse(
            f"--pattern {pattern!a} cannot be passed on safely",
            "letters, digits and . _ + = @ - * ? [ ]",
        )


def matching(entries: dict[str, dict[str, Any]], pattern: str) -> dict[str, dict[str, Any]]:
    """The entries of a manifest whose names match."""
    return {n: entry for n, entry in entries.items() if fnmatch.fnmatchcase(n, pattern)}


def check_listed(shards: list[Shard], listed: dict[str, dict[str, Any]]) -> None:
    """Every listed shard is here and has its size; every shard is listed where any is."""
    here = {s.name: s for s in shards}
    for name, entry in listed.items():
        if name not in here:
            raise console.Problem(f"{name} is listed by its producer and is not here", "fetch it")
        if here[name].size != entry["size"]:
            raise damaged(here[name], f"{here[name].size} bytes instead of {entry['size']}")


def damaged(shard: Shard, how: str) -> console.Problem:
    return console.Problem(
        f"{shard.path}: not what its producer wrote: {how}", "delete it and fetch it again"
    )


def fingerprint(shards: list[Shard]) -> list[list[Any]]:
    """What changes when a shard does, as JSON keeps it."""
    return [[s.name, s.size, s.mtime_ns, s.start, s.end] for s in shards]


def unchanged(shard: Shard, fd: int) -> bool:
    """Whether the open file is still the one that was read."""
    stat = os.fstat(fd)
    return (stat.st_size, stat.st_mtime_ns) == (shard.size, shard.mtime_ns)
