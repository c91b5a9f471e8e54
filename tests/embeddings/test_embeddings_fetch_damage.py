"""Shards that are damaged, unfinished or not what their producer listed are refused by name."""

from __future__ import annotations

import os
import shutil

import pytest

import write_manifest
from embeddings import cluster_fetch, credentials
from embeddings.cluster_link import ClusterLink
from support.embeddings_clusters import SHARDS, find, good, one, same, sync  # noqa: F401
from support.embeddings_samples import shard, shards, vectors

pytestmark = pytest.mark.slow  # a sync over real ssh takes a second or more each


def test_what_the_producer_listed_is_compared_byte_for_byte(cluster, here):
    remote = cluster("tensor01")
    paths = shards(remote.folder, vectors(90), 3)
    write_manifest.write(str(remote.folder), "cluster*_gpu*.pkl")
    good(one(here, find("tensor01")))
    kept = here / "tensor01.shards.manifest.json"
    assert kept.read_bytes() == (remote.folder / "shards.manifest.json").read_bytes()
    # Changed behind the manifest's back, size and time as before: a bad disk.
    stat, raw = paths[1].stat(), bytearray(paths[1].read_bytes())
    raw[len(raw) // 2] ^= 4
    paths[1].write_bytes(raw)
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shutil.rmtree(here)
    result = one(here, find("tensor01"))
    assert "cluster1_gpu1.pkl is not what its producer wrote (SHA-256)" in str(result.problem)
    assert not list(here.glob("*.pkl"))
    # Listed as it is now: fetched again although size and time are the same.
    os.utime(paths[1])
    write_manifest.write(str(remote.folder), "cluster*_gpu*.pkl")
    assert len(good(one(here, find("tensor01"))).fetched) == 3
    shard(remote.folder / "cluster1_gpu7.pkl", vectors(5), 90)
    problem = str(one(here, find("tensor01")).problem)
    assert "cluster1_gpu7.pkl is not in its producer's manifest: still being written?" in problem
    (remote.folder / "cluster1_gpu7.pkl").unlink()
    paths[0].write_bytes(paths[0].read_bytes() + b"x")
    assert "in its producer's manifest: still being written?" in str(
        one(here, find("tensor01")).problem
    )
    paths[0].unlink()
    assert "is in its manifest and is missing there" in str(one(here, find("tensor01")).problem)


def test_a_manifest_that_changed_brings_the_file_again_whatever_its_time_says(cluster, here):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(30), 1)
    write_manifest.write(str(remote.folder), "cluster*_gpu*.pkl")
    good(one(here, find("tensor01")))
    stat = path.stat()
    shards(remote.folder, vectors(30, seed=1), 1)
    (remote.folder / "shards.manifest.json").unlink()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    write_manifest.write(str(remote.folder), "cluster*_gpu*.pkl")
    assert good(one(here, find("tensor01"))).fetched == ["cluster1_gpu0.pkl"]
    same(here, remote.folder)


@pytest.mark.parametrize("rsync", [True, False])
def test_a_shard_that_is_still_being_written_is_noticed(cluster, here, monkeypatch, rsync):
    remote = cluster("tensor01")
    first, second = shards(remote.folder, vectors(90), 2)
    if not rsync:
        remote.tools(without="rsync")
    plain = ClusterLink.fetch

    async def write_meanwhile(self, files, into):
        await plain(self, files, into)
        with open(second, "ab") as f:
            f.write(b"more")

    monkeypatch.setattr(ClusterLink, "fetch", write_meanwhile)
    result = one(here, find("tensor01"))
    assert "cluster1_gpu1.pkl is still being written" in str(result.problem)
    assert not list(here.glob("*.pkl"))
    monkeypatch.setattr(ClusterLink, "fetch", plain)
    problem = str(one(here, find("tensor01")).problem)  # quiet now, but no whole pickle
    assert "tensor01: cluster1_gpu1.pkl: not readable" in problem
    shards(remote.folder, vectors(90), 2)
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    same(here, remote.folder)


def test_an_unfinished_shard_without_a_manifest_is_noticed_by_its_end(cluster, here):
    remote = cluster("tensor01")
    first, _ = shards(remote.folder, vectors(90), 2)
    first.write_bytes(first.read_bytes()[:1500])
    problem = str(one(here, find("tensor01")).problem)
    assert "tensor01: cluster1_gpu0.pkl: not readable" in problem and "not whole" in problem
    assert not list(here.glob("*.pkl"))


def test_a_shard_that_may_not_be_read_is_said_to_be_so(cluster, here):
    remote = cluster("tensor01", "a password")  # an account of its own, which is not root
    shards(remote.folder, vectors(30), 2)[0].chmod(0)
    clusters = [
        credentials.find("tensor01", remote.credentials(here.parent / ".credentials").parent)
    ]
    assert "tensor01: not readable there" in str(one(here, clusters).problem)
    remote.folder.chmod(0)
    assert "tensor01: this user may not enter the folder" in str(one(here, clusters).problem)
    remote.folder.chmod(0o755)


@pytest.mark.parametrize("tool", ["rsync", "tail"])
def test_a_cluster_that_sends_without_end_is_cut_off(cluster, here, monkeypatch, tool):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(1000, 256), 1)
    assert cluster_fetch.SLACK == 1 << 20
    if tool == "tail":
        remote.tools(without="rsync", tail=f"while cat {path}; do :; done")
        problem = str(one(here, find("tensor01")).problem)
        assert "is still being written, or was cut short" in problem
    else:
        grows = (
            f"for i in 1 2 3 4; do cat {path} {path} >>{path}.more; done; cat {path}.more >{path}"
        )
        remote.tools(rsync=f'{grows}; exec {shutil.which("rsync")} "$@"')
        problem = str(one(here, find("tensor01")).problem)
        assert "sends more than" in problem or "is still being written" in problem
    assert not list(here.glob("*.pkl"))
