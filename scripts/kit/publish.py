"""Publishing: write beside, fsync, verify, rename. Nothing half-written has its final name.

with publish.file("data/processed/train_sft.jsonl") as f:   # text; mode="wb" for bytes
    f.write(...)
with publish.folder("adapters/mapper-lora/v1.0.0") as stage:
    (stage / "card.json").write_text(...)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

SHA256 = re.compile(r"[0-9a-f]{64}")


def fsync_folder(folder: str | os.PathLike) -> None:
    """Make renames inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def file(path: str | os.PathLike, mode: str = "w", durable: bool = True) -> Iterator[IO]:
    """Open a file that appears at `path` only when the block ends without an exception.

    durable: survives a power cut; a cache, which is checked when it is read, need not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(fd, 0o666 & ~umask)
        with os.fdopen(fd, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as f:
            yield f
            if durable:
                f.flush()
                os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    if durable:
        fsync_folder(path.parent)


def json_file(path: str | os.PathLike, value: Any) -> None:
    """Publish `value` as indented JSON."""
    with file(path) as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


@contextlib.contextmanager
def folder(path: str | os.PathLike) -> Iterator[Path]:
    """A staging folder beside `path`, renamed to `path` at the end. `path` must not exist."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield stage
        for inner, _, names in os.walk(stage):
            for name in names:
                with open(os.path.join(inner, name), "rb") as f:
                    os.fsync(f.fileno())
            fsync_folder(inner)
        stage.chmod(0o755)
        os.rename(stage, path)  # fails if `path` exists and is not empty: versions are immutable
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def sha256(path: str | os.PathLike) -> str:
    """The file's SHA-256 as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
