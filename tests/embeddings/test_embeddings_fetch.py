"""Shards come from real ssh servers: all clusters at once, every file checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embeddings import cluster_fetch, credentials
from embeddings.cluster_transfer import PARALLEL, ClusterTransfer
from support.embeddings_clusters import SHARDS, find, good, one, same, sync
from support.embeddings_samples import shards, vectors

pytestmark = pytest.mark.slow  # a sync over real ssh takes a second or more each


def test_two_clusters_by_key_and_by_password_give_all_their_shards(cluster, here, tmp_path):
    first, second = cluster("tensor01"), cluster("tensor02", "a password")
    array = vectors(400)
    shards(first.folder, array, 4)
    for number in (2, 3):
        shutil.move(first.folder / f"cluster1_gpu{number}.pkl", second.folder)
    second.credentials(tmp_path / "cred")
    names = find("tensor01", "tensor02", folder=tmp_path / "cred")
    results = sync(here, names)
    assert [len(good(r).fetched) for r in results] == [2, 2]
    same(here, first.folder)
    same(here, second.folder)
    again = sync(here, names)
    assert [(good(r).fetched, r.unchanged) for r in again] == [([], 2), ([], 2)]
    shards(first.folder, array + 1, 4)  # all four: two have the names of the second cluster's
    assert "has the name of a shard from tensor02" in str(one(here, names[:1]).problem)


def test_a_cluster_that_is_down_does_not_stop_the_others(cluster, here):
    first, second = cluster("tensor01"), cluster("tensor02")
    shards(first.folder, vectors(40), 2)
    second.stop()
    results = sync(here, find("tensor01", "tensor02", "nobody.invalid"))
    assert len(good(results[0]).fetched) == 2
    same(here, first.folder)
    assert "tensor02: nothing listens on its ssh port" in str(results[1].problem)
    assert "nobody.invalid: no such name" in str(results[2].problem)


def test_a_cluster_without_the_folder_or_without_shards_is_named(cluster, here):
    remote = cluster("tensor01")
    assert "no file matches cluster*_gpu*.pkl" in str(one(here, find("tensor01")).problem)
    other = credentials.find("tensor01", Path("/nowhere"), "elsewhere")
    assert "tensor01: there is no folder elsewhere" in str(one(here, [other]).problem)
    shards(remote.folder, vectors(40), 1)
    assert len(good(one(here, find("tensor01"), pattern="cluster[0-9]_*.pkl")).fetched) == 1


@pytest.mark.parametrize("missing", ["there", "here"])
def test_without_rsync_on_one_side_the_shards_still_come(cluster, here, monkeypatch, missing):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(900, 64), 6)
    if missing == "there":
        remote.tools(without="rsync")
    else:
        monkeypatch.setenv("RSYNC", "/nowhere/rsync")
    by_rsync = []
    plain = ClusterTransfer.by_rsync
    monkeypatch.setattr(ClusterTransfer, "by_rsync", lambda *a: (by_rsync.append(1), plain(*a))[1])
    assert len(good(one(here, find("tensor01"))).fetched) == 6
    same(here, remote.folder)
    assert by_rsync == []
    assert (here / "cluster1_gpu0.pkl").stat().st_mtime == int(
        (remote.folder / "cluster1_gpu0.pkl").stat().st_mtime
    )
    assert good(one(here, find("tensor01"))).unchanged == 6


def test_more_shards_than_transfers_are_shared_out(cluster, here, monkeypatch):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(900), 9)
    lists = []
    plain = ClusterTransfer.by_rsync
    monkeypatch.setattr(
        ClusterTransfer, "by_rsync", lambda self, tool, names, into: (
            lists.append(names), plain(self, tool, names, into))[1]
    )  # fmt: skip
    assert len(good(one(here, find("tensor01"))).fetched) == 9
    assert len(lists) == PARALLEL and sorted(map(len, lists)) == [2, 2, 2, 3]
    logins = (remote.root / "sshd.log").read_text().count("Accepted")
    assert logins == 1  # one master carries them all


def test_a_folder_stands_in_for_a_cluster(tmp_path, here):
    remote = tmp_path / "fake" / SHARDS
    shards(remote, vectors(90), 3)
    names = find(f"{tmp_path}/fake")
    assert len(good(one(here, names)).fetched) == 3
    same(here, remote)
    assert good(one(here, names)).unchanged == 3
    shutil.rmtree(remote)
    assert "there is no folder" in str(one(here, names).problem)


def test_too_little_space_is_found_before_the_transfer(tmp_path, here, monkeypatch):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    monkeypatch.setattr(
        cluster_fetch.shutil, "disk_usage", lambda path: type("U", (), {"free": 10})
    )
    problem = str(one(here, find(f"{tmp_path}/fake")).problem)
    assert "to fetch and 10 B free" in problem
