"""A fetch that was interrupted or killed continues where it stopped."""

from __future__ import annotations

import glob
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings import cluster_fetch, sync_record
from embeddings.cluster_link import ClusterLink
from kit import console
from support.checkout import ROOT
from support.embeddings_clusters import SHARDS, find, good, one, same, sync
from support.embeddings_samples import shards, vectors
from support.processes import wait_until

pytestmark = pytest.mark.slow  # a sync over real ssh takes a second or more each


def test_a_connection_that_breaks_is_taken_up_again(cluster, here):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(4000, 256), 2)
    real = shutil.which("rsync")
    once = f"""
cut() {{
  dd bs=65536 count=12 2>/dev/null
  pid=$1
  while [ "$pid" -gt 1 ]; do
    case $(ps -o args= -p "$pid") in sshd:*) kill -9 "$pid"; return ;; esac
    pid=$(ps -o ppid= -p "$pid"); pid=$((pid))
  done
}}
if mkdir "$HOME/broke" 2>/dev/null; then {real} "$@" | cut $PPID; fi
exec {real} "$@"
"""
    remote.tools(rsync=once)
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    assert (remote.home / "broke").is_dir()
    same(here, remote.folder)


def test_a_cluster_that_breaks_off_every_time_is_given_up(cluster, here, capsys):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(40), 1)
    remote.tools(rsync="exit 1")
    problem = str(one(here, find("tensor01")).problem)
    assert problem.startswith("tensor01: ") and "\n" not in problem
    assert "try 5 of 5" in capsys.readouterr().err
    assert not list(here.glob("*.pkl"))


SLOW = """
if [ ! -e "$HOME/fast" ]; then
  {real} "$@" | (head -c 300000; while [ -e "$HOME" ] && [ ! -e "$HOME/fast" ]; do sleep 0.1; done)
  exit 0
fi
exec {real} "$@"
"""


def start(words: list, here: Path) -> subprocess.Popen:
    base = [sys.executable, ROOT / "scripts/sync_and_merge_embeddings.py", "--sync-only"]
    return subprocess.Popen(
        [*base, "--embeddings-dir", here, "--remote-dir", SHARDS, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_sync_that_was_killed_goes_on_where_it_stopped(cluster, here, how):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(1000, 256), 1)
    remote.tools(without="rsync", tail=SLOW.format(real=shutil.which("tail")))
    process = start(["--clusters", "tensor01"], here)
    try:
        wait_until(lambda: [p for p in here.rglob("*.part") if p.stat().st_size >= 290_000])
        process.send_signal(getattr(signal, how))
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[how], stderr
    words = ("Traceback", "asyncio", "Exception", "Task ", "coroutine", "never")
    assert not [word for word in words if word in stderr]
    if how != "SIGKILL":
        assert stderr.splitlines()[-1] == "interrupted; run it again"
    assert not list(here.glob("*.pkl"))
    (part,) = here.rglob("*.part")
    had = part.stat().st_size
    (remote.home / "fast").touch()
    asked = remote.home / "asked"
    remote.tools(without="rsync", tail=f'echo "$@" >>{asked}; exec {shutil.which("tail")} "$@"')
    assert good(one(here, find("tensor01"))).fetched == [path.name]
    assert asked.read_text().split()[:2] == ["-c", f"+{had + 1}"]
    same(here, remote.folder)
    if how != "SIGKILL":
        assert not glob.glob(f"/tmp/td.{process.pid}*")


def test_transfers_that_outlive_a_killed_sync_keep_the_next_one_waiting(
    cluster,
    here,
    monkeypatch,
):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(1000, 256), 1)
    wait = 'while [ -e "$HOME" ] && [ ! -e "$HOME/fast" ]; do sleep 0.1; done'
    remote.tools(rsync=f': >"$HOME/begun"; {wait}; exec {shutil.which("rsync")} "$@"')
    process = start(["--clusters", "tensor01"], here)
    wait_until((remote.home / "begun").exists)
    process.kill()
    process.communicate()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 0)
    with pytest.raises(console.Problem, match="another sync is going on"):
        sync(here, find("tensor01"))
    (remote.home / "fast").touch()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 60)
    good(one(here, find("tensor01")))
    same(here, remote.folder)


def test_a_resumed_part_that_differs_is_fetched_from_the_beginning(cluster, here):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(300, 64), 1)
    remote.tools(without="rsync")
    stat = path.stat()
    part = here / f".incoming/tensor01/{path.name}.{stat.st_size}-{int(stat.st_mtime)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the same" * 50)
    assert "its first part differs" in str(one(here, find("tensor01")).problem)
    good(one(here, find("tensor01")))
    same(here, remote.folder)


def test_what_a_killed_rsync_left_is_used_again(cluster, here, monkeypatch):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(3000, 256), 1)
    incoming = here / ".incoming" / "tensor01"
    incoming.mkdir(parents=True)
    raw = path.read_bytes()
    (incoming / f".{path.name}.aB3xYz").write_bytes(raw[:2_000_000])
    (incoming / ".gone.pkl.aB3xYz").write_bytes(b"of a shard that is no more")
    sizes = []
    plain = ClusterLink.fetch

    async def look(self, files, into):
        sizes.extend(p.stat().st_size for p in (into / ".rsync-partial").iterdir())
        await plain(self, files, into)

    monkeypatch.setattr(ClusterLink, "fetch", look)
    good(one(here, find("tensor01")))
    assert sizes == [2_000_000]
    same(here, remote.folder)


def test_two_syncs_at_once_do_not_mix(tmp_path, here, monkeypatch):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    here.mkdir()
    monkeypatch.setattr(cluster_fetch, "LOCK_SECONDS", 0)
    with (
        cluster_fetch.locked(here),
        pytest.raises(console.Problem, match="another sync is going on"),
    ):
        sync(here, find(f"{tmp_path}/fake"))
    good(one(here, find(f"{tmp_path}/fake")))


def test_a_broken_state_file_only_means_fetching_again(tmp_path, here):
    shards(tmp_path / "fake" / SHARDS, vectors(90), 3)
    names = find(f"{tmp_path}/fake")
    good(one(here, names))
    for broken in ("{", "[]", "", json.dumps({"cluster1_gpu0.pkl": 3})):
        (here / sync_record.RECORD).write_text(broken)
        assert len(good(one(here, names)).fetched) >= 1
