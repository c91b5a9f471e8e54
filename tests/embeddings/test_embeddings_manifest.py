"""The producer's manifest and the merged file's: every damaged byte is found and located."""

from __future__ import annotations

import json
import os
import random

import pytest

import write_manifest
from embeddings import merge, merged_check, merged_formats
from kit import console
from support.embeddings_merges import (
    all_ok,
    change,
    problem,
)
from support.embeddings_samples import vectors


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
    assert any("2 shards have no SHA-256" in text for text, _ in options.warnings)


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
    facts = json.loads(manifest.read_text())
    for broken in ("{", "[]", "{}", json.dumps(facts | {"format": "x"})):
        manifest.write_text(broken)
        with pytest.raises(console.Problem, match="not the manifest of a merged file"):
            merged_check.verify(options.output)
    manifest.unlink()
    with pytest.raises(console.Problem, match="there is no manifest beside"):
        merged_check.verify(options.output)
