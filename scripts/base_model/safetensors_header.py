"""The header of a .safetensors file, read and checked without its tensors and without packages.

Format: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, data.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from kit import json_files

MOST = 100_000_000  # bytes of header that the format allows
MOST_NUMBERS = 64 + 2  # of a tensor: its dimensions, begin and end
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16,
    "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
LFS = b"version https://git-lfs.github.com/spec/"


class Broken(Exception):
    """What is wrong with the file, in a few words."""


def is_pointer(path: Path) -> bool:
    """Whether a Git-LFS pointer (some 130 bytes of text) stands where the file should be."""
    with open(path, "rb") as f:
        return f.read(len(LFS)) == LFS


def read(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{tensor: (dtype, shape)} after checking length, JSON, shapes, offsets and the file's size.

    Raises Broken, OSError.
    """
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(8)
        if len(start) < 8:
            raise Broken(f"{size} bytes are no safetensors file")
        (length,) = struct.unpack("<Q", start)
        if length > MOST or length < 2:
            raise Broken(f"not a safetensors file (a header of {length:,} bytes)")
        if length > size - 8:
            raise Broken(f"cut off inside its header ({size:,} bytes)")
        raw = f.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=json_files.unique_keys)
    except json_files.DuplicateKey:
        raise Broken("its header names a tensor twice") from None
    except (ValueError, RecursionError):
        raise Broken("its header is not JSON") from None
    if not isinstance(header, dict):
        raise Broken("its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    _check_layout({n: t[2] for n, t in tensors.items()}, size - 8 - length)
    return {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}


def _tensor(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise Broken(f"{name}: no dtype, shape and offsets") from None
    if len(numbers) > MOST_NUMBERS:  # the product of a million takes hours
        raise Broken(f"{name}: {len(numbers) - 2:,} dimensions")
    if any(type(n) is not int or n < 0 for n in numbers) or begin > end:
        raise Broken(f"{name}: shape or offsets that cannot be")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Broken(f"{name}: unknown dtype {str(dtype)[:20]!r}")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise Broken(f"{name}: {dtype} {list(shape)} does not fill its {end - begin:,} bytes")
    return dtype, tuple(shape), (begin, end)


def _check_layout(offsets: dict[str, tuple[int, int]], data_size: int) -> None:
    """The tensors must fill the data without a gap or an overlap, and the file must hold them."""
    at = 0
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != at:
            raise Broken(f"{name}: begins at {begin:,} where {at:,} is due")
        at = end
    if data_size < at:
        raise Broken(f"cut off: {at - data_size:,} of {at:,} bytes of data are missing")
    if data_size > at:
        raise Broken(f"{data_size - at:,} bytes too long")
