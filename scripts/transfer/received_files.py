"""What a carrier writes here: no file larger than it was listed, whatever the host sends.

A file that is larger there by now is cut to its listed size and named. The plan looks at the host
again; what is still larger then is refused, only the log of a running job comes as far as it was
listed. A transfer as a whole may exceed its listing by GROWTH, and only where such logs are in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

BLOCK = 1 << 20
MORE = "it sent more bytes than it had listed; cut off"
GROWTH = 16 << 20  # bytes that running jobs may write to their logs during one transfer


def write_at_most(source: IO[bytes], out: IO[bytes], size: int | None, count) -> bool:
    """Copy `size` bytes (None: all) to `out`; whether there were more. `count` gets each length."""
    remaining = size
    while block := source.read(BLOCK if remaining is None else min(BLOCK, remaining + 1)):
        if remaining is not None:
            block, more = block[:remaining], len(block) > remaining
            remaining -= len(block)
        else:
            more = False
        out.write(block)
        count(len(block))
        if more:
            return True
    return False


def settle(part: Path, target: Path, mtime_ns: int, executable: bool) -> None:
    """Give a whole `part` its time, its executable bit and its name."""
    os.chmod(part, 0o755 if executable else 0o644)
    os.utime(part, ns=(mtime_ns, mtime_ns))
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(part, target)


def cut_to_size(folder: Path, sizes: dict[str, int]) -> set[str]:
    """Cut the files of `folder` that are larger than in `sizes`; their names."""
    larger, root = set(), str(folder)
    for name, size in sizes.items():
        try:
            facts = os.lstat(path := f"{root}/{name}")
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode) and facts.st_size > size:
            larger.add(name)
            os.truncate(path, size)
    return larger


def use_of(folder: Path, wanted: Callable[[str], bool] = lambda path: True) -> tuple[int, int]:
    """(bytes, files) below `folder`, of the paths that are `wanted`."""
    size = number = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            if wanted(path := f"{inner}/{name}"):
                try:
                    size += os.lstat(path).st_size
                    number += 1
                except OSError:
                    continue
    return size, number
