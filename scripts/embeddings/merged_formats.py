"""The four formats of a merged file: the bytes before its rows, and its files.

pickle        one file: vectors, articles and metadata, as the dict that plain pickle.load gives
npy           vectors as numpy's .npy, articles beside them as Parquet
safetensors   the tensor `embeddings`, articles beside it as Parquet
parquet       one table: id, title, url, embedding (list of float32 or float64 of fixed size)

NAME.manifest.json is written next to each, and published last.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from embeddings.pickles import writer
from kit import console

SUFFIXES = {"pickle": ".pkl", "npy": ".npy", "safetensors": ".safetensors", "parquet": ".parquet"}


def choose(output: Path, name: str | None) -> str:
    """The format: `name`, or what the output's suffix says; a Misuse if the two differ."""
    by_suffix = {suffix: format_ for format_, suffix in SUFFIXES.items()} | {".pickle": "pickle"}
    chosen = by_suffix.get(output.suffix)
    if chosen is None or (name is not None and name != chosen):
        wanted = SUFFIXES[name] if name else ", ".join(SUFFIXES.values())
        raise console.Misuse(f"--output {output}: its name must end in {wanted}", "rename it")
    return chosen


def manifest_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.manifest.json")


def articles_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.articles.parquet")


def header(name: str, shape: tuple[int, int], dtype: str, model: str) -> bytes:
    """The bytes before the first row, for a C-order array of `shape` and `dtype` ('<f4')."""
    if name == "pickle":
        return writer.before_rows(shape, dtype)
    if name == "npy":  # numpy/lib/format.py, version 1.0: the rows begin at a multiple of 64
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        text += " " * (-(len(text) + 11) % 64) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    if name == "safetensors":
        size = int(dtype[2:])
        tensor = {
            "dtype": f"F{8 * size}",
            "shape": list(shape),
            "data_offsets": [0, shape[0] * shape[1] * size],
        }
        text = json.dumps({"__metadata__": {"model": model}, "embeddings": tensor})
        text += " " * (-len(text.encode()) % 8)
        return struct.pack("<Q", len(text.encode())) + text.encode()
    return b""
