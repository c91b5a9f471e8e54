"""Segments: the stretches of an output file, each with its digest, as the manifest lists them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from embeddings import shard_rows

BLOCK = 1 << 20


def segment(what: str, offset: int, length: int, digest: Any) -> dict[str, Any]:
    """A stretch of an output file; `digest`: the hash object that took in its bytes."""
    return {"what": what, "offset": offset, "length": length, "digest": digest.hexdigest()}


def is_intact(file: IO[bytes], entry: dict[str, Any], digest_name: str) -> bool:
    """Whether the file's bytes there still have the digest."""
    digest, remaining = shard_rows.digest(digest_name), entry["length"]
    file.seek(entry["offset"])
    while remaining:
        block = file.read(min(remaining, BLOCK))
        if not block:
            return False
        digest.update(block)
        remaining -= len(block)
    return digest.hexdigest() == entry["digest"]


def of_whole_file(path: Path, digest_name: str) -> list[dict[str, Any]]:
    """The one segment of a file that was written as a whole."""
    digest = shard_rows.digest(digest_name)
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
        size = f.tell()
    return [segment("the file", 0, size, digest)]
