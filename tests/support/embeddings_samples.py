"""Small shards and articles for the tests of the embeddings room, written by numpy and pickle."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WORDS = ["Anarchism", "Albedo", "A", "Écluse", "日本", "Abraham_Lincoln", "5", "İstanbul", "🙂"]


def vectors(rows: int, dim: int = 8, dtype: str = "f4", seed: int = 0) -> np.ndarray:
    """Unit vectors, (rows, dim)."""
    array = np.random.default_rng(seed).standard_normal((rows, dim))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(dtype)


def shard(path: Path, array: np.ndarray, start: int, protocol: int = 4, **more: Any) -> Path:
    """One checkpoint, as a GPU host writes it."""
    value = {
        "embeddings": array,
        "start_index": start,
        "end_index": start + len(array),
        "cluster": "tensor01",
        "gpu": 0,
        "model": "bge-base",
        "timestamp": "2026-11-01T12:00:00",
    } | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({k: v for k, v in value.items() if v is not ...}, protocol))
    return path


def with_flipped_bits(path: Path, count: int, seed: int) -> Iterator[None]:
    """Write `count` damaged copies over the file, one to three bits flipped in each."""
    whole, dice = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        yield


def shards(folder: Path, array: np.ndarray, count: int = 4, **more: Any) -> list[Path]:
    """`array` cut into `count` shards of nearly the same length."""
    cuts = [round(i * len(array) / count) for i in range(count + 1)]
    return [
        shard(folder / f"cluster1_gpu{i}.pkl", array[a:b], a, gpu=i, **more)
        for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))
    ]


def articles(count: int) -> list[dict[str, Any]]:
    """Articles with ascending ids; titles of every width, now and then one shared or a letter."""
    return [
        {
            "id": str(3 * i + 5),
            "url": f"https://en.wikipedia.org/wiki/{WORDS[i % len(WORDS)]}_{i}",
            "title": WORDS[i % len(WORDS)] + (f" ({i})" if i % 200 else ""),
            "text": "so long " * (i % 60) + ("x" * 70_000 if i % 997 == 11 else ""),
        }
        for i in range(count)
    ]


def wikipedia(path: Path, count: int, protocol: int = 4) -> Path:
    """The articles as the pickle that the merge expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(articles(count), protocol))
    return path


def other_python(folder: Path, numpy: str) -> str:
    """A Python with another numpy, made in `folder` once. Skips where none can be made."""
    uv = Path(sys.executable).with_name("uv")
    tool = str(uv) if uv.exists() else shutil.which("uv")
    if not tool:
        pytest.skip("no uv here to make an environment with another numpy")
    python = folder / numpy / "bin" / "python"
    wanted = f"numpy=={numpy}" if "." in numpy else f"numpy>={numpy}"
    ready = folder / numpy / "ready"  # an earlier test's attempt may have failed half-way
    env = {"UV_SYSTEM_CERTS": "1"} | os.environ  # as the set-up asks uv
    base = [tool, "venv", "-q", "--clear", "--python", sys.executable, str(folder / numpy)]
    add = [tool, "pip", "install", "-q", "--python", str(python), wanted]
    for words in () if ready.exists() else (base, add):
        done = subprocess.run(words, capture_output=True, text=True, env=env)
        if done.returncode:
            pytest.skip(f"no environment with {wanted}: {done.stderr.strip()[-200:]}")
    ready.touch()
    return str(python)
