"""One small merge for the tests: its options, and what came of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from embeddings import merge, merged_check, merged_formats
from kit import console
from support.embeddings_samples import shard, shards, vectors, wikipedia

ITEMS = 500


@pytest.fixture(name="options")
def merge_options(tmp_path):
    """Four shards of 510 rows in all, 10 of them questions, and 500 articles."""
    array = vectors(ITEMS + 10)
    shards(tmp_path / "shards", array)
    wikipedia(tmp_path / "wikipedia.pkl", ITEMS)
    (tmp_path / "out").mkdir()
    options = merge.MergeOptions(
        tmp_path / "shards", tmp_path / "wikipedia.pkl", tmp_path / "out/all.pkl", "pickle", ITEMS
    )
    options.array = array
    return options


def loaded(path: Path) -> dict:
    with open(path, "rb") as f:
        return pickle.load(f)


def all_ok(output: Path) -> bool:
    return all(check.status == "ok" for check in merged_check.verify(output))


def left_behind(options) -> list[str]:
    """What stands in the output's folder beside the output and its manifest."""
    known = {options.output.name, f"{options.output.name}.manifest.json"}
    return sorted({p.name for p in options.output.parent.iterdir()} - known)


def read_back(output: Path, name: str) -> tuple[np.ndarray, list[str]]:
    """Vectors and titles, as each format's own library reads them."""
    import pyarrow.parquet as pq

    if name == "pickle":
        merged = loaded(output)
        return merged["embeddings"], [a["title"] for a in merged["articles"]]
    if name == "parquet":
        table = pq.read_table(output)
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        return flat.reshape(len(table), -1), table["title"].to_pylist()
    titles = pq.read_table(merged_formats.articles_of(output))["title"].to_pylist()
    if name == "npy":
        return np.load(output), titles
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(output)["embeddings"], titles


def change(options, number: int, array=None, start=None, **more):
    """Write one of the four shards again."""
    cuts = [round(i * len(options.array) / 4) for i in range(5)]
    part = options.array[cuts[number] : cuts[number + 1]] if array is None else array
    path = options.folder / f"cluster1_gpu{number}.pkl"
    shard(path, part, cuts[number] if start is None else start, gpu=number, **more)


def problem(options) -> str:
    with pytest.raises(console.Problem) as caught:
        merge.merge(options)
    assert "\n" not in str(caught.value)
    assert not options.output.exists() and left_behind(options) == []
    return str(caught.value)


class Stopped(BaseException):
    """Like a signal: no Exception."""
