"""The producer's manifest, verification, resuming and publication of a merged file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import write_manifest
from embeddings import merge, merge_folder, merged_check, merged_formats, shard_rows, worker
from kit import console
from support.embeddings_merges import (
    ITEMS,
    all_ok,
    change,
    left_behind,
    loaded,
    merge_options,  # noqa: F401
    problem,
    read_back,
)
from support.embeddings_samples import shards, vectors, wikipedia

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
            bad = [c for c in merged_check.verify(options.output) if c.status == "fail"]
            assert len(bad) == 1
            parts.add(bad[0].found)
            os.pwrite(f.fileno(), bytes([raw[at]]), at)
    assert "damaged: rows 128-255 (from cluster1_gpu1.pkl)" in parts
    assert "damaged: articles" in parts
    assert all_ok(options.output)


# Verification


def test_verify_names_what_is_wrong(options):
    with pytest.raises(console.Problem, match="there is no such file"):
        merged_check.verify(options.output)
    merge.merge(options)
    raw = options.output.read_bytes()
    options.output.write_bytes(raw[:-1])
    assert (
        merged_check.verify(options.output)[0].found
        == f"{len(raw) - 1} bytes instead of {len(raw)}"
    )
    options.output.write_bytes(raw)
    manifest = merged_formats.manifest_of(options.output)
    told = json.loads(manifest.read_text())
    for broken in ("{", "[]", "{}", json.dumps(told | {"format": "x"})):
        manifest.write_text(broken)
        with pytest.raises(console.Problem, match="not the manifest of a merged file"):
            merged_check.verify(options.output)
    manifest.unlink()
    with pytest.raises(console.Problem, match="there is no manifest beside"):
        merged_check.verify(options.output)


# Interruption, resuming, publication


class Stopped(BaseException):
    """Like a signal: no Exception."""


def stop_after(monkeypatch, count: int) -> list[str]:
    """Make the merge stop before it copies shard number `count`; the names that it copies."""
    copied: list[str] = []
    plain = merge.MergeJob.copy_shard

    def copy_shard(self, out, shard, bar):
        if len(copied) == count:
            raise Stopped
        copied.append(shard.name)
        return plain(self, out, shard, bar)

    monkeypatch.setattr(merge.MergeJob, "copy_shard", copy_shard)
    return copied


@pytest.mark.parametrize("name", ["pickle", "npy", "parquet"])
@pytest.mark.parametrize("listed", [False, True])
def test_resume_goes_on_at_the_last_whole_shard(options, monkeypatch, name, listed):
    if listed:
        write_manifest.write(str(options.folder), "cluster*_gpu*.pkl")
    options.format, options.resume = name, True
    options.output = options.output.with_suffix(merged_formats.SUFFIXES[name])
    stop_after(monkeypatch, 3)
    with pytest.raises(Stopped):
        merge.merge(options)
    assert not options.output.exists()
    monkeypatch.undo()
    done = json.loads((merge_folder.folder_of(options.output) / "progress.json").read_text())[
        "done"
    ]
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
    return merge_folder.folder_of(options.output)


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
    options.output = options.output.with_suffix(merged_formats.SUFFIXES[name])
    merge.merge(options)
    array = vectors(ITEMS + 10, seed=9)
    shards(options.folder, array)
    plain, calls = merge_folder.MergeFolder._replace, []

    def replace(self, staged, final):
        if len(calls) == renames:
            raise Stopped
        calls.append(final)
        plain(self, staged, final)

    monkeypatch.setattr(merge_folder.MergeFolder, "_replace", replace)
    with pytest.raises(Stopped):
        merge.merge(options)
    monkeypatch.undo()
    assert all_ok(options.output)  # ends it first
    got, _ = read_back(options.output, name)
    assert (got == array[:ITEMS]).all()
    assert not merge_folder.folder_of(options.output).exists()


def test_what_stands_in_the_way_of_a_publication_is_said_before_it_begins(options):
    merge.merge(options)
    before, manifest = options.output.read_bytes(), merged_formats.manifest_of(options.output)
    manifest.unlink()
    manifest.mkdir()
    shards(options.folder, vectors(ITEMS + 10, seed=3))
    with pytest.raises(console.Problem, match="a folder is in the way; move it away"):
        merge.merge(options)
    assert options.output.read_bytes() == before and left_behind(options) == []


def test_a_publication_that_an_error_cut_short_is_kept_for_the_next_command(options, monkeypatch):
    merge.merge(options)
    array = vectors(ITEMS + 10, seed=9)
    shards(options.folder, array)

    def full(self, staged, final):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge_folder.MergeFolder, "_replace", full)
    with pytest.raises(OSError):
        merge.merge(options)
    monkeypatch.undo()
    assert all_ok(options.output)  # ends it first
    assert (loaded(options.output)["embeddings"] == array[:ITEMS]).all()


@pytest.mark.slow
def test_two_merges_into_one_output_do_not_mix(options):
    with (
        merge_folder.MergeFolder(options.output),
        pytest.raises(console.Problem, match="another merge"),
    ):
        merge.merge(options)
    merge.merge(options)


def test_a_shard_that_changes_during_the_merge_stops_it(options, monkeypatch):
    plain = shard_rows.blocks

    def blocks(file, found, count):
        yield from plain(file, found, count)
        with open(found.path, "ab") as f:
            f.write(b".")

    monkeypatch.setattr(shard_rows, "blocks", blocks)
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
        options.output = (disk / "all.pkl").with_suffix(merged_formats.SUFFIXES[name])
        array = vectors(ITEMS + 10, 60)  # 120 KB: fits once, not twice
        shards(options.folder, array)
        monkeypatch.setattr(merge.MergeJob, "check_space", lambda job: None)
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_second_process_starts_is_not_lost(options, monkeypatch, number):
    def stop(*_):
        raise Stopped

    plain = worker.multiprocessing.get_context("fork").Process.start

    def start(process):
        os.kill(os.getpid(), number)
        plain(process)
        started.append(process)

    started, before = [], signal.signal(number, stop)
    monkeypatch.setattr(worker.multiprocessing.get_context("fork").Process, "start", start)
    try:
        with pytest.raises(Stopped):
            merge.merge(options)
    finally:
        signal.signal(number, before)
        for process in started:
            process.kill()
            process.join()
    assert started and not options.output.exists()
