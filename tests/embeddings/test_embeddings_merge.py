"""Many shards become one checked file: whole or not at all, and the same after any interruption."""

from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest

from embeddings import merge, merged_formats, merged_manifest, shard_rows
from support.embeddings_merges import (
    ITEMS,
    all_ok,
    change,
    left_behind,
    loaded,
    problem,
    read_back,
)
from support.embeddings_samples import articles, other_python, shard, shards, vectors, wikipedia


def test_the_merged_pickle_is_the_dict_that_plain_pickle_load_gives(options):
    merge.merge(options)
    merged = loaded(options.output)
    assert set(merged) == {
        "embeddings", "articles", "total_articles", "embedding_dim", "model", "timestamp", "shape",
        "quality_metrics", "chunk_info",
    }  # fmt: skip
    assert (merged["embeddings"] == options.array[:ITEMS]).all()
    assert merged["embeddings"].dtype == "<f4" and merged["embeddings"].flags.writeable
    wanted = [{k: a[k] for k in ("title", "id", "url")} for a in articles(ITEMS)]
    assert merged["articles"] == wanted
    assert list(merged["articles"][0]) == ["title", "id", "url"]
    assert merged["shape"] == (ITEMS, 8) and merged["total_articles"] == ITEMS
    assert (merged["embedding_dim"], merged["model"]) == (8, "bge-base")
    assert merged["timestamp"].startswith("20") and "T" in merged["timestamp"]
    norms = np.linalg.norm(options.array[:ITEMS].astype("f8"), axis=1)
    quality = merged["quality_metrics"]
    assert quality["mean_norm"] == pytest.approx(norms.mean(), rel=1e-7)
    assert quality["std_norm"] == pytest.approx(norms.std(), abs=1e-7)
    assert quality["min_norm"] == pytest.approx(norms.min(), rel=1e-7)
    assert quality["max_norm"] == pytest.approx(norms.max(), rel=1e-7)
    assert quality["has_nan"] is False and quality["has_inf"] is False
    assert [c["end_index"] for c in merged["chunk_info"]] == [128, 255, 382, 500]
    assert merged["chunk_info"][1]["file"] == "cluster1_gpu1.pkl"
    assert merged["chunk_info"][1]["gpu"] == 1
    assert options.warnings == []
    assert all_ok(options.output) and left_behind(options) == []


LOAD = """
import pickle, sys, numpy as np
found = pickle.load(open(sys.argv[1], "rb"))
array = found["embeddings"]
total, articles = float(array.astype("f8").sum()), len(found["articles"])
print(np.__version__, array.dtype, array.shape, total, articles)
"""

FIRST = "cluster1_gpu0.pkl (items 0-128)"


@pytest.mark.slow
@pytest.mark.parametrize("numpy", ["1.26.4", "2"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_merged_pickle_loads_under_numpy_1_and_2(options, tmp_path_factory, numpy, dtype):
    array = vectors(ITEMS + 10, dtype=dtype)
    shards(options.folder, array)
    merge.merge(options)
    python = other_python(tmp_path_factory.getbasetemp(), numpy)
    words = [python, "-W", "error", "-c", LOAD, options.output]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert printed[0].startswith(numpy) and printed[1] == array.dtype.name
    assert float(printed[4]) == pytest.approx(float(array[:ITEMS].astype("f8").sum()))
    assert printed[5] == str(ITEMS)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["pickle", "npy", "safetensors", "parquet"])
def test_every_format_holds_the_same_vectors_and_articles(options, name, dtype):
    array = vectors(ITEMS + 10, dtype=dtype)
    shards(options.folder, array)
    options.format = name
    options.output = options.output.with_suffix(merged_formats.SUFFIXES[name])
    manifest = merge.merge(options)
    got, titles = read_back(options.output, name)
    if name in ("npy", "safetensors"):  # as their own writers align the rows
        assert manifest["vectors"]["offset"] % {"npy": 64, "safetensors": 8}[name] == 0
    assert got.dtype == ("f4" if (name, dtype) == ("parquet", "f2") else dtype)
    assert (got == array[:ITEMS]).all()
    assert titles == [a["title"] for a in articles(ITEMS)]
    assert all_ok(options.output)
    assert not list(options.output.parent.glob(".*"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_shards_of_any_protocol_and_order_merge_to_the_same(options, protocol, order):
    if (protocol, order) == (2, "F"):
        pytest.skip("refused: see the reader's tests")
    for path in options.folder.iterdir():
        path.unlink()
    cuts = [0, 200, 350, 510]
    for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False)):
        part = np.array(options.array[a:b], order=order)
        shard(options.folder / f"cluster2_gpu{i}.pkl", part, a, protocol)
    merge.merge(options)
    assert (loaded(options.output)["embeddings"] == options.array[:ITEMS]).all()


def test_the_last_shard_gives_only_its_rows_before_the_questions(options):
    merge.merge(options)
    assert loaded(options.output)["embeddings"].shape[0] == ITEMS
    assert merge.merge(options)["left_out"] == merged_manifest.QUESTIONS
    options.items = 130  # cuts the second shard; two more are not needed at all
    manifest = merge.merge(options)
    assert (loaded(options.output)["embeddings"] == options.array[:130]).all()
    assert [c["end_index"] for c in manifest["chunk_info"]] == [128, 130]
    texts = [warning for warning, _ in options.warnings]
    assert any("380 rows after item 130 are left out" in text for text in texts)
    assert any("holds 500 articles; the first 130 are used" in text for text in texts)


# Checks


def test_a_gap_names_both_neighbours_and_the_missing_range(options):
    (options.folder / "cluster1_gpu1.pkl").unlink()
    message = problem(options)
    assert "items 128-255 are missing" in message
    assert (
        "between cluster1_gpu0.pkl (items 0-128) and cluster1_gpu2.pkl (items 255-382)" in message
    )


def test_a_missing_first_or_last_shard_is_named_by_its_range(options):
    (options.folder / "cluster1_gpu0.pkl").unlink()
    assert "items 0-128 are missing, before cluster1_gpu1.pkl (items 128-255)" in problem(options)
    change(options, 0)
    (options.folder / "cluster1_gpu3.pkl").unlink()
    assert "items 382-500 are missing, after cluster1_gpu2.pkl (items 255-382)" in problem(options)


def test_an_overlap_names_both_files_and_ranges(options):
    change(options, 1, vectors(130), 125)
    assert (
        "cluster1_gpu0.pkl (items 0-128) and cluster1_gpu1.pkl (items 125-255) overlap"
        in problem(options)
    )


def test_a_duplicate_names_both_files_and_the_range(options):
    shard(options.folder / "cluster2_gpu0.pkl", options.array[128:255], 128)
    message = problem(options)
    assert "cluster1_gpu1.pkl (items 128-255) and cluster2_gpu0.pkl (items 128-255)" in message
    assert "are duplicates" in message


@pytest.mark.parametrize(
    ("array", "more", "message"),
    [
        (vectors(127, 9), {}, "has the dimension 8 and cluster1_gpu1.pkl (items 128-255) has 9"),
        (vectors(127, dtype="f8"), {}, "has the type <f4 and cluster1_gpu1.pkl (items 128-255)"),
        (
            None,
            {"model": "e5"},
            "has the model bge-base and cluster1_gpu1.pkl (items 128-255) has e5",
        ),
        (
            None,
            {"model": ...},
            "has the model bge-base and cluster1_gpu1.pkl (items 128-255) has None",
        ),
    ],
)
def test_mixed_shards_are_named_in_pairs(options, array, more, message):
    change(options, 1, array, **more)
    line = problem(options)
    assert FIRST in line and message in line


def test_rows_that_do_not_fit_the_range_are_named(options):
    change(options, 1, end_index=260)
    assert "cluster1_gpu1.pkl: it holds 127 rows for items 128-260" in problem(options)


def test_no_shards_is_said_with_the_folder(options):
    for path in options.folder.iterdir():
        path.unlink()
    assert f"{options.folder}: no shards" in problem(options)


def test_articles_that_do_not_fit_stop_the_merge(options):
    wikipedia(options.articles, ITEMS - 1)
    assert "499 articles for 500 vectors" in problem(options)
    options.articles.write_bytes(b"\x80\x04cos\nsystem\n.")
    assert f"{options.articles}: not readable as a plain pickle" in problem(options)


def test_nan_and_inf_are_counted_with_their_rows_over_the_whole_file(options):
    array = options.array.copy()
    array[[3, 200, 505], [0, 7, 1]] = np.nan  # 505 is a question: not taken
    array[499, 2] = np.inf
    array[200, 3] = -np.inf
    array[300] = 0
    shards(options.folder, array)
    manifest = merge.merge(options)
    assert manifest["rows_with_nan"] == {"count": 2, "first": [3, 200]}
    assert manifest["rows_with_inf"] == {"count": 2, "first": [200, 499]}
    quality = loaded(options.output)["quality_metrics"]
    assert quality["has_nan"] is True and quality["has_inf"] is True
    assert quality["min_norm"] == 0 and math.isfinite(quality["mean_norm"])
    texts = [text for text, _ in options.warnings]
    assert "2 rows hold NaN: 3, 200" in texts and "2 rows hold Inf: 200, 499" in texts
    assert "1 rows are all zero" in texts


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4, 1e-30, 1e30, 1e200, 1e-200])
def test_norms_are_those_of_numpy_in_double_precision(dtype, scale):
    if scale not in (1.0, 1e-4, 1e4) and dtype != "f8" and scale not in (1e-30, 1e30):
        pytest.skip("no such number in this type")
    if dtype == "f2" and scale not in (1.0, 1e4):
        pytest.skip("no such number in this type")
    array = (vectors(300, 16, "f8") * scale).astype(dtype)
    statistics = shard_rows.Statistics()
    for begin in range(0, 300, 70):
        statistics.add(array[begin : begin + 70])
    unit = np.linalg.norm(array.astype("f8") / scale, axis=1)
    metrics = statistics.metrics()
    assert metrics["mean_norm"] / scale == pytest.approx(unit.mean(), rel=1e-6)
    assert metrics["min_norm"] / scale == pytest.approx(unit.min(), rel=1e-6)
    assert metrics["max_norm"] / scale == pytest.approx(unit.max(), rel=1e-6)
    assert not metrics["has_nan"] and not metrics["has_inf"]
    if 1e-100 < scale < 1e100:  # beyond, the square of a deviation is no number
        assert metrics["std_norm"] / scale == pytest.approx(unit.std(), rel=1e-2, abs=1e-6)
