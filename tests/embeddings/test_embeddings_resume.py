"""An interrupted merge continues at its last whole shard, or starts over where inputs changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import write_manifest
from embeddings import merge, merge_folder, merged_formats
from kit import console
from support.embeddings_merges import (
    ITEMS,
    Stopped,
    all_ok,
    left_behind,
    loaded,
    read_back,
)
from support.embeddings_samples import shards, vectors


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
