"""A merged file is published whole or not at all, whatever ends the merge."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from embeddings import merge, merge_folder, merged_formats, shard_rows, worker
from kit import console
from support.embeddings_merges import (
    ITEMS,
    Stopped,
    all_ok,
    left_behind,
    loaded,
    problem,
    read_back,
)
from support.embeddings_samples import shards, vectors, wikipedia


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

    def blocks(file, read, count):
        yield from plain(file, read, count)
        with open(read.path, "ab") as f:
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
        with pytest.raises((OSError, console.Problem)) as caught:
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
