"""Many shards become one checked file: whole or not at all, and the same after any interruption."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

import write_manifest
from embeddings import formats, index, merge, rows, staging, verify
from embeddings_samples import articles, other_python, shard, shards, vectors, wikipedia
from kit import console

ITEMS = 500
FIRST, SECOND = "cluster1_gpu0.pkl (items 0-128)", "cluster1_gpu1.pkl (items 128-255)"


@pytest.fixture
def options(tmp_path):
    """Four shards of 510 rows in all, 10 of them questions, and 500 articles."""
    array = vectors(ITEMS + 10)
    shards(tmp_path / "shards", array)
    wikipedia(tmp_path / "wikipedia.pkl", ITEMS)
    (tmp_path / "out").mkdir()
    found = merge.Options(
        tmp_path / "shards", tmp_path / "wikipedia.pkl", tmp_path / "out/all.pkl", "pickle", ITEMS
    )
    found.array = array
    return found


def loaded(path: Path) -> dict:
    with open(path, "rb") as f:
        return pickle.load(f)


def all_ok(output: Path) -> bool:
    return all(check.status == "ok" for check in verify.verify(output))


def left_behind(options) -> list[str]:
    """What stands in the output's folder beside the output and its manifest."""
    known = {options.output.name, f"{options.output.name}.manifest.json"}
    return sorted({p.name for p in options.output.parent.iterdir()} - known)


# The result


def test_the_merged_pickle_is_the_dict_that_plain_pickle_load_gives(options):
    merge.merge(options)
    found = loaded(options.output)
    assert set(found) == {
        "embeddings", "articles", "total_articles", "embedding_dim", "model", "timestamp", "shape",
        "quality_metrics", "chunk_info",
    }  # fmt: skip
    assert (found["embeddings"] == options.array[:ITEMS]).all()
    assert found["embeddings"].dtype == "<f4" and found["embeddings"].flags.writeable
    wanted = [{k: a[k] for k in ("title", "id", "url")} for a in articles(ITEMS)]
    assert found["articles"] == wanted
    assert list(found["articles"][0]) == ["title", "id", "url"]
    assert found["shape"] == (ITEMS, 8) and found["total_articles"] == ITEMS
    assert (found["embedding_dim"], found["model"]) == (8, "bge-base")
    assert found["timestamp"].startswith("20") and "T" in found["timestamp"]
    norms = np.linalg.norm(options.array[:ITEMS].astype("f8"), axis=1)
    quality = found["quality_metrics"]
    assert quality["mean_norm"] == pytest.approx(norms.mean(), rel=1e-7)
    assert quality["std_norm"] == pytest.approx(norms.std(), abs=1e-7)
    assert quality["min_norm"] == pytest.approx(norms.min(), rel=1e-7)
    assert quality["max_norm"] == pytest.approx(norms.max(), rel=1e-7)
    assert quality["has_nan"] is False and quality["has_inf"] is False
    assert [c["end_index"] for c in found["chunk_info"]] == [128, 255, 382, 500]
    assert found["chunk_info"][1]["file"] == "cluster1_gpu1.pkl"
    assert found["chunk_info"][1]["gpu"] == 1
    assert options.warnings == []
    assert all_ok(options.output) and left_behind(options) == []


LOAD = """
import pickle, sys, numpy as np
found = pickle.load(open(sys.argv[1], "rb"))
array = found["embeddings"]
total, articles = float(array.astype("f8").sum()), len(found["articles"])
print(np.__version__, array.dtype, array.shape, total, articles)
"""


@pytest.mark.slow
@pytest.mark.parametrize("numpy", ["1.26.4", "2"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_merged_pickle_loads_under_numpy_1_and_2(options, tmp_path_factory, numpy, dtype):
    array = vectors(ITEMS + 10, dtype=dtype)
    shards(options.folder, array)
    merge.merge(options)
    python = other_python(tmp_path_factory.getbasetemp(), numpy)
    words = [python, "-W", "error", "-c", LOAD, options.output]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert told[0].startswith(numpy) and told[1] == array.dtype.name
    assert float(told[4]) == pytest.approx(float(array[:ITEMS].astype("f8").sum()))
    assert told[5] == str(ITEMS)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["pickle", "npy", "safetensors", "parquet"])
def test_every_format_holds_the_same_vectors_and_articles(options, name, dtype):
    array = vectors(ITEMS + 10, dtype=dtype)
    shards(options.folder, array)
    options.format = name
    options.output = options.output.with_suffix(formats.SUFFIXES[name])
    manifest = merge.merge(options)
    got, titles = read_back(options.output, name)
    if name in ("npy", "safetensors"):  # as their own writers align the rows
        assert manifest["vectors"]["offset"] % {"npy": 64, "safetensors": 8}[name] == 0
    assert got.dtype == ("f4" if (name, dtype) == ("parquet", "f2") else dtype)
    assert (got == array[:ITEMS]).all()
    assert titles == [a["title"] for a in articles(ITEMS)]
    assert all_ok(options.output)
    assert not list(options.output.parent.glob(".*"))


def read_back(output: Path, name: str) -> tuple[np.ndarray, list[str]]:
    """Vectors and titles, as each format's own library reads them."""
    import pyarrow.parquet as pq

    if name == "pickle":
        found = loaded(output)
        return found["embeddings"], [a["title"] for a in found["articles"]]
    if name == "parquet":
        table = pq.read_table(output)
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        return flat.reshape(len(table), -1), table["title"].to_pylist()
    titles = pq.read_table(formats.articles_of(output))["title"].to_pylist()
    if name == "npy":
        return np.load(output), titles
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(output)["embeddings"], titles


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
    assert merge.merge(options)["left_out"] == merge.QUESTIONS
    options.items = 130  # cuts the second shard; two more are not needed at all
    manifest = merge.merge(options)
    assert (loaded(options.output)["embeddings"] == options.array[:130]).all()
    assert [c["end_index"] for c in manifest["chunk_info"]] == [128, 130]
    texts = [found for found, _ in options.warnings]
    assert any("380 rows after item 130 are left out" in text for text in texts)
    assert any("holds 500 articles; the first 130 are used" in text for text in texts)


# Checks


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
    found = problem(options)
    assert FIRST in found and message in found


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
    texts = [found for found, _ in options.warnings]
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
    found = rows.Statistics()
    for begin in range(0, 300, 70):
        found.add(array[begin : begin + 70])
    unit = np.linalg.norm(array.astype("f8") / scale, axis=1)
    metrics = found.metrics()
    assert metrics["mean_norm"] / scale == pytest.approx(unit.mean(), rel=1e-6)
    assert metrics["min_norm"] / scale == pytest.approx(unit.min(), rel=1e-6)
    assert metrics["max_norm"] / scale == pytest.approx(unit.max(), rel=1e-6)
    assert not metrics["has_nan"] and not metrics["has_inf"]
    if 1e-100 < scale < 1e100:  # beyond, the square of a deviation is no number
        assert metrics["std_norm"] / scale == pytest.approx(unit.std(), rel=1e-2, abs=1e-6)


# The producer's manifest


def test_a_manifest_lets_pass_what_its_producer_wrote_and_nothing_else(options):
    write_manifest.write(str(options.folder), "cluster*_gpu*.pkl")
    merge.merge(options)
    options.output.unlink()
    path = options.folder / "cluster1_gpu2.pkl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    assert "bytes follow its end" in problem(options)
    change(options, 2, vectors(127, seed=5))
    assert f"{path}: not what its producer wrote: SHA-256" in problem(options)
    change(options, 2, cluster="tensor0001")
    assert f"{path}: not what its producer wrote: 4349 bytes instead of 4347" in problem(options)
    path.unlink()
    assert "items 255-382 are missing" in problem(options)


def test_a_shard_unknown_to_the_manifest_is_a_warning(options):
    write_manifest.write(str(options.folder), "cluster*_gpu[01].pkl")
    merge.merge(options)
    assert any("2 shards have no SHA-256" in found for found, _ in options.warnings)


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"files": {"a": {"size": 1}}}', b'{"files": 3}'])
def test_a_broken_manifest_is_named(options, raw):
    (options.folder / "shards.manifest.json").write_bytes(raw)
    assert "shards.manifest.json: not a manifest of shards" in problem(options)


class Articles:
    """In place of the process that reads the articles: a thousand of them would take minutes."""

    def __init__(self, plan):
        self.plan = plan

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def check(self):
        pass

    def result(self):
        raise AssertionError("a damaged shard was accepted")


@pytest.mark.slow
def test_a_thousand_flipped_bits_in_shards_are_all_caught(options, monkeypatch):
    write_manifest.write(str(options.folder), "cluster*_gpu*.pkl")
    monkeypatch.setattr(merge, "Worker", Articles)
    dice = random.Random(7)
    for _ in range(1000):
        path = options.folder / f"cluster1_gpu{dice.randrange(4)}.pkl"
        stat = path.stat()
        raw = bytearray(path.read_bytes())
        at, bit = dice.randrange(len(raw)), 1 << dice.randrange(8)
        raw[at] ^= bit
        path.write_bytes(raw)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk does
        with pytest.raises(console.Problem):
            merge.merge(options)
        raw[at] ^= bit
        path.write_bytes(raw)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not options.output.exists()


def test_a_thousand_flipped_bits_in_the_merged_file_are_all_caught(options):
    merge.merge(options)
    raw, dice = bytearray(options.output.read_bytes()), random.Random(8)
    parts = set()
    with open(options.output, "r+b", buffering=0) as f:
        for _ in range(1000):
            at, bit = dice.randrange(len(raw)), 1 << dice.randrange(8)
            os.pwrite(f.fileno(), bytes([raw[at] ^ bit]), at)
            bad = [c for c in verify.verify(options.output) if c.status == "fail"]
            assert len(bad) == 1
            parts.add(bad[0].found)
            os.pwrite(f.fileno(), bytes([raw[at]]), at)
    assert "damaged: rows 128-255 (from cluster1_gpu1.pkl)" in parts
    assert "damaged: articles" in parts
    assert all_ok(options.output)


# Verification


def test_verify_names_what_is_wrong(options):
    with pytest.raises(console.Problem, match="there is no such file"):
        verify.verify(options.output)
    merge.merge(options)
    raw = options.output.read_bytes()
    options.output.write_bytes(raw[:-1])
    assert verify.verify(options.output)[0].found == f"{len(raw) - 1} bytes instead of {len(raw)}"
    options.output.write_bytes(raw)
    manifest = formats.manifest_of(options.output)
    told = json.loads(manifest.read_text())
    for broken in ("{", "[]", "{}", json.dumps(told | {"format": "x"})):
        manifest.write_text(broken)
        with pytest.raises(console.Problem, match="not the manifest of a merged file"):
            verify.verify(options.output)
    manifest.unlink()
    with pytest.raises(console.Problem, match="there is no manifest beside"):
        verify.verify(options.output)


# Interruption, resuming, publication


class Stopped(BaseException):
    """Like a signal: no Exception."""


def stop_after(monkeypatch, count: int) -> list[str]:
    """Make the merge stop before it copies shard number `count`; the names that it copies."""
    copied: list[str] = []
    plain = merge.Job.copy_shard

    def copy_shard(self, out, shard, bar):
        if len(copied) == count:
            raise Stopped
        copied.append(shard.name)
        return plain(self, out, shard, bar)

    monkeypatch.setattr(merge.Job, "copy_shard", copy_shard)
    return copied


@pytest.mark.parametrize("name", ["pickle", "npy", "parquet"])
@pytest.mark.parametrize("listed", [False, True])
def test_resume_goes_on_at_the_last_whole_shard(options, monkeypatch, name, listed):
    if listed:
        write_manifest.write(str(options.folder), "cluster*_gpu*.pkl")
    options.format, options.resume = name, True
    options.output = options.output.with_suffix(formats.SUFFIXES[name])
    stop_after(monkeypatch, 3)
    with pytest.raises(Stopped):
        merge.merge(options)
    assert not options.output.exists()
    monkeypatch.undo()
    done = json.loads((staging.folder_of(options.output) / "progress.json").read_text())["done"]
    assert len(done) >= (2 if not listed else 0)
    copied = stop_after(monkeypatch, 99)
    manifest = merge.merge(options)
    assert copied == [f"cluster1_gpu{i}.pkl" for i in range(len(done), 4)]
    got, titles = read_back(options.output, name)
    assert (got == options.array[:ITEMS]).all() and len(titles) == ITEMS
    assert all_ok(options.output)
    norms = np.linalg.norm(options.array[:ITEMS].astype("f8"), axis=1)
    assert manifest["quality_metrics"]["mean_norm"] == pytest.approx(norms.mean(), rel=1e-7)


def interrupted(options, monkeypatch, count: int = 3) -> Path:
    """A merge that was stopped: its staging folder."""
    stop_after(monkeypatch, count)
    with pytest.raises(Stopped):
        merge.merge(options)
    monkeypatch.undo()
    options.resume = True
    return staging.folder_of(options.output)


def test_resume_copies_again_what_was_damaged_since(options, monkeypatch):
    folder = interrupted(options, monkeypatch)
    with open(folder / "data", "r+b") as f:
        f.seek(200 + 150 * 32)  # in the second shard's rows
        f.write(b"\xff")
    copied = stop_after(monkeypatch, 99)
    merge.merge(options)
    assert copied == ["cluster1_gpu1.pkl", "cluster1_gpu3.pkl"]
    assert (loaded(options.output)["embeddings"] == options.array[:ITEMS]).all()


def test_resume_starts_over_when_a_shard_changed_since(options, monkeypatch, capsys):
    interrupted(options, monkeypatch)
    array = vectors(ITEMS + 10, seed=3)
    shards(options.folder, array)
    merge.merge(options)
    assert "changed since the interrupted run; starting over" in capsys.readouterr().err
    assert (loaded(options.output)["embeddings"] == array[:ITEMS]).all()


def test_resume_with_nothing_to_resume_merges_from_the_beginning(options, capsys):
    options.resume = True
    merge.merge(options)
    assert "nothing to resume" in capsys.readouterr().err
    assert all_ok(options.output)


def test_resume_starts_over_when_a_producer_said_more_since(options, monkeypatch):
    interrupted(options, monkeypatch)
    listed = {
        p.name: {"size": p.stat().st_size, "sha256": "0" * 64} for p in options.folder.glob("*.pkl")
    }
    (options.folder / "shards.manifest.json").write_text(json.dumps({"files": listed}))
    with pytest.raises(console.Problem, match="not what its producer wrote"):
        merge.merge(options)


def test_without_resume_an_interrupted_merge_starts_over(options, monkeypatch):
    interrupted(options, monkeypatch)
    options.resume = False
    copied = stop_after(monkeypatch, 99)
    merge.merge(options)
    assert len(copied) == 4 and left_behind(options) == []


def test_a_failed_merge_leaves_the_old_output_and_nothing_else(options):
    merge.merge(options)
    before = options.output.read_bytes()
    wikipedia(options.articles, 3)
    with pytest.raises(console.Problem):
        merge.merge(options)
    assert options.output.read_bytes() == before
    assert all_ok(options.output) and left_behind(options) == []


@pytest.mark.parametrize(
    ("name", "renames"), [("pickle", 0), ("pickle", 1), ("npy", 0), ("npy", 1), ("npy", 2)]
)
def test_a_publication_that_was_cut_short_is_ended_by_the_next_command(
    options, monkeypatch, name, renames
):
    options.format = name
    options.output = options.output.with_suffix(formats.SUFFIXES[name])
    merge.merge(options)
    array = vectors(ITEMS + 10, seed=9)
    shards(options.folder, array)
    plain, calls = staging.Stage._replace, []

    def replace(self, staged, final):
        if len(calls) == renames:
            raise Stopped
        calls.append(final)
        plain(self, staged, final)

    monkeypatch.setattr(staging.Stage, "_replace", replace)
    with pytest.raises(Stopped):
        merge.merge(options)
    monkeypatch.undo()
    assert all_ok(options.output)  # ends it first
    got, _ = read_back(options.output, name)
    assert (got == array[:ITEMS]).all()
    assert not staging.folder_of(options.output).exists()


def test_what_stands_in_the_way_of_a_publication_is_said_before_it_begins(options):
    merge.merge(options)
    before, manifest = options.output.read_bytes(), formats.manifest_of(options.output)
    manifest.unlink()
    manifest.mkdir()
    shards(options.folder, vectors(ITEMS + 10, seed=3))
    with pytest.raises(console.Problem, match="a folder stands in the way; move it away"):
        merge.merge(options)
    assert options.output.read_bytes() == before and left_behind(options) == []


def test_a_publication_that_an_error_cut_short_is_kept_for_the_next_command(options, monkeypatch):
    merge.merge(options)
    array = vectors(ITEMS + 10, seed=9)
    shards(options.folder, array)

    def full(self, staged, final):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.Stage, "_replace", full)
    with pytest.raises(OSError):
        merge.merge(options)
    monkeypatch.undo()
    assert all_ok(options.output)  # ends it first
    assert (loaded(options.output)["embeddings"] == array[:ITEMS]).all()


def test_two_merges_into_one_output_do_not_mix(options):
    with staging.Stage(options.output), pytest.raises(console.Problem, match="another merge"):
        merge.merge(options)
    merge.merge(options)


def test_a_shard_that_changes_during_the_merge_stops_it(options, monkeypatch):
    plain = rows.blocks

    def blocks(file, found, count):
        yield from plain(file, found, count)
        with open(found.path, "ab") as f:
            f.write(b".")

    monkeypatch.setattr(rows, "blocks", blocks)
    assert "it changed while it was read" in problem(options)


def test_too_little_space_is_found_before_anything_is_written(options, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(merge.shutil, "disk_usage", lambda path: usage)
    message = problem(options)
    assert "are needed and 9.8 KB are free" in message and "--output on another disk" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize(("name", "size"), [("pickle", 220), ("npy", 220), ("parquet", 350)])
def test_a_disk_that_fills_up_leaves_the_old_output_whole(options, monkeypatch, name, size):
    disk = options.output.parent / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        options.format = name
        options.output = (disk / "all.pkl").with_suffix(formats.SUFFIXES[name])
        array = vectors(ITEMS + 10, 60)  # 120 KB: fits once, not twice
        shards(options.folder, array)
        monkeypatch.setattr(merge.Job, "check_space", lambda job: None)
        merge.merge(options)
        before = options.output.read_bytes()
        with pytest.raises(
            console.Problem if name == "x" else (OSError, console.Problem)
        ) as caught:
            merge.merge(options)
        assert "No space left" in str(caught.value)
        assert options.output.read_bytes() == before and all_ok(options.output)
        assert not list(disk.glob(".*"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)  # -l: the traceback holds a file open


# Where the vectors are used


@pytest.mark.parametrize("name", ["pickle", "parquet"])
def test_duckdb_reads_the_sharded_dataset_as_it_is(options, monkeypatch, name):
    import duckdb

    monkeypatch.setattr(index, "PART_ROWS", 200)
    monkeypatch.setattr(index.tables, "ROW_GROUP", 100)
    options.format = name
    options.output = options.output.with_suffix(formats.SUFFIXES[name])
    for _ in range(2):  # the second one takes the place of the first
        where = index.load("parquet-shards", options.output, merge.merge(options), options, None)
    assert sorted(p.name for p in where.iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    table = duckdb.sql(f"select * from '{where}/*.parquet' order by id::int")
    got = table.fetchnumpy()
    assert (np.stack(got["embedding"]) == options.array[:ITEMS]).all()
    assert list(got["title"]) == [a["title"] for a in articles(ITEMS)]
    wanted = options.array[7].tolist()
    nearest = duckdb.sql(
        f"select id from '{where}/*.parquet' "
        f"order by list_cosine_similarity(embedding, {wanted}::float[]) desc limit 1"
    )
    assert nearest.fetchone() == (articles(8)[7]["id"],)


def test_a_folder_with_other_files_is_not_taken_for_a_dataset(options, tmp_path):
    manifest = merge.merge(options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(console.Misuse, match="is not ours to replace"):
        index.load("parquet-shards", options.output, manifest, options, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_parquet_of_the_users_own_is_not_taken_for_a_dataset(options, tmp_path):
    manifest = merge.merge(options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "measurements.parquet").write_bytes(b"years of work")
    for where in (tmp_path / "mine", tmp_path / "mine" / "measurements.parquet"):
        with pytest.raises(console.Misuse, match="is not ours to replace"):
            index.load("parquet-shards", options.output, manifest, options, where)
    assert (tmp_path / "mine" / "measurements.parquet").read_bytes() == b"years of work"


@pytest.mark.slow
def test_chroma_finds_an_article_by_its_vector(options, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    for _ in range(2):
        manifest = merge.merge(options)
        where = index.load("chroma", options.output, manifest, options, tmp_path / "chroma")
    client = chromadb.PersistentClient(str(where))
    assert [c.name for c in client.list_collections()] == ["all"]
    found = client.get_collection("all", embedding_function=None)
    assert found.count() == ITEMS and found.metadata["model"] == "bge-base"
    answer = found.query(query_embeddings=options.array[123:124], n_results=1)
    article = articles(ITEMS)[123]
    assert answer["ids"] == [[article["id"]]]
    assert answer["metadatas"][0][0] == {
        "title": article["title"], "url": article["url"], "row": 123,
    }  # fmt: skip


@pytest.mark.slow
def test_a_collection_that_no_merge_made_stays(options, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    options.output = options.output.with_name("日本.pkl")
    manifest = merge.merge(options)
    folder = tmp_path / "chroma"
    index.load("chroma", options.output, manifest, options, folder)
    client = chromadb.PersistentClient(str(folder))
    assert [c.name for c in client.list_collections()] == ["vectors"]
    client.create_collection("documents", embedding_function=None)
    with pytest.raises(console.Problem, match="a collection documents that no merge made"):
        output = options.output.rename(options.output.with_name("documents.pkl"))
        index.load("chroma", output, manifest, options, folder)
    assert {c.name for c in client.list_collections()} == {"vectors", "documents"}


def test_vectors_with_nan_go_into_no_index(options, tmp_path):
    array = options.array.copy()
    array[3, 0] = np.nan
    shards(options.folder, array)
    with pytest.raises(console.Problem, match="holds NaN or Inf"):
        index.load("chroma", options.output, merge.merge(options), options, tmp_path / "chroma")
