"""Logins to clusters: no secret in any process or file, host keys, shells that misbehave."""

from __future__ import annotations

import glob
import os
import shutil
import threading
from pathlib import Path

import pytest

from embeddings import cluster_fetch
from kit import console
from support.embeddings_clusters import SHARDS, find, good, one, same, sync  # noqa: F401
from support.embeddings_samples import shard, shards, vectors

pytestmark = pytest.mark.slow  # a sync over real ssh takes a second or more each

SECRET = "hunter2 s3cret"


class Watcher(threading.Thread):
    """Looks for a secret in the command line and environment of every process."""

    def __init__(self, secret: str):
        super().__init__(daemon=True)
        self.secret, self.found, self.over = secret.encode(), set(), threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self.over.is_set():
            for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
                try:
                    raw = Path(path).read_bytes()
                except OSError:
                    continue
                self.seen.add(raw.split(b"\0")[0])
                if self.secret in raw and int(path.split("/")[2]) != os.getpid():
                    self.found.add(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc to look at processes")
def test_the_password_stands_in_no_process_no_output_and_no_file(cluster, here, tmp_path, command):
    remote = cluster("tensor02", SECRET)
    shards(remote.folder, vectors(2000, 256), 2)
    path = remote.credentials(tmp_path / "cred")
    watcher = Watcher(SECRET)
    watcher.start()
    try:
        words = ["--sync-only", "--clusters", "tensor02", "--embeddings-dir", here]
        words += ["--credentials-dir", path.parent]
        done = command("sync_and_merge_embeddings.py", *words, env={"TANDEM_DEBUG": "1"})
        shutil.rmtree(here)
        path.write_text(path.read_text().replace("2222", "2222"))
        remote.credentials(tmp_path / "cred", password="wrong " + SECRET)
        refused = command("sync_and_merge_embeddings.py", *words, env={"TANDEM_DEBUG": "1"})
    finally:
        watcher.over.set()
        watcher.join()
    assert done.returncode == 0, done.stderr
    assert refused.returncode == 1 and "it refused the login" in refused.stdout
    assert "check username and password or key_file in tensor02.credentials" in refused.stdout
    for text in (done.stdout, done.stderr, refused.stdout, refused.stderr):
        assert SECRET not in text
    assert any(b"ssh" in name for name in watcher.seen)  # it did look at them
    assert watcher.found == set()
    for file in [*here.rglob("*"), *map(Path, glob.glob("/tmp/td.*/*"))]:
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_an_unknown_host_key_is_refused_unless_asked_for(cluster, here):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(40), 1)
    known = remote.root / "known_hosts"
    key = known.read_text()
    known.write_text("")
    problem = str(one(here, find("tensor01")).problem)
    assert "its host key is not known here yet" in problem and "--accept-new-host-key" in problem
    assert not list(here.glob("*.pkl"))
    good(one(here, find("tensor01"), accept_new=True))
    assert key.split()[2] in known.read_text()
    good(one(here, find("tensor01")))


def test_a_changed_host_key_is_refused_even_when_new_ones_are_accepted(cluster, here):
    remote, other = cluster("tensor01"), cluster("tensor09")
    shards(remote.folder, vectors(40), 1)
    wrong = other.root.joinpath("known_hosts").read_text().split()[1:]
    line = " ".join([f"[127.0.0.1]:{remote.port}", *wrong])
    (remote.root / "known_hosts").write_text(line + "\n")
    problem = str(one(here, find("tensor01"), accept_new=True).problem)
    assert "its host key is not the one this machine knows" in problem
    assert not list(here.glob("*.pkl"))


def test_a_link_to_a_shard_and_a_noisy_login_do_no_harm(cluster, here):
    remote = cluster("tensor01")
    shard(remote.home / "elsewhere.pkl", vectors(10), 0)
    (remote.folder / "cluster1_gpu0.pkl").symlink_to("../../elsewhere.pkl")
    shard(remote.folder / "cluster1_gpu1.pkl", vectors(10), 10)
    (remote.root / "env").write_text("echo Welcome to tensor01; echo file 1 2 x >&2\n")
    remote.tools()
    with open(remote.root / "env", "a") as f:
        f.write('case "$SSH_ORIGINAL_COMMAND" in sh) echo "Welcome to tensor01" ;; esac\n')
    assert len(good(one(here, find("tensor01"))).fetched) == 2
    same(here, remote.folder)
    assert not (here / "cluster1_gpu0.pkl").is_symlink()


def test_a_login_without_a_shell_says_so(cluster, here):
    remote = cluster("tensor01")
    (remote.root / "env").write_text("echo 'This service allows sftp connections only.'; exit 1\n")
    problem = str(one(here, find("tensor01")).problem)
    assert "tensor01: no connection (This service allows sftp connections only.)" in problem


def test_names_that_a_shell_would_run_are_refused(cluster, here):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(40), 1)
    (remote.folder / "cluster1_gpu$(touch ran).pkl").write_bytes(b"x")
    assert "cannot be fetched safely" in str(one(here, find("tensor01")).problem)
    assert not list(remote.home.rglob("ran")) and not list(here.rglob("ran"))
    with pytest.raises(console.Misuse, match="cannot be passed on safely"):
        cluster_fetch.sync(find("tensor01"), cluster_fetch.FetchOptions(here, "$(touch ran)*"))


def test_a_name_that_was_not_asked_for_is_not_fetched(cluster, here):
    remote = cluster("tensor01")
    (path,) = shards(remote.folder, vectors(30), 1)
    path.with_name("wikipedia_merged.pkl").write_bytes(path.read_bytes())
    stat = shutil.which("stat")
    remote.tools(stat=f"{stat} \"$@\"; {stat} -L -c 'file %s %Y %n' wikipedia_merged.pkl")
    problem = str(one(here, find("tensor01")).problem)
    assert "'wikipedia_merged.pkl' cannot be fetched safely" in problem
    assert not list(here.glob("*.pkl"))


def test_endless_messages_of_a_cluster_fill_neither_memory_nor_disk(cluster, here):
    remote = cluster("tensor01")
    shards(remote.folder, vectors(40), 1)
    remote.tools()
    with open(remote.root / "env", "a") as f:
        f.write("while echo 0123456789012345678901234567890123456789 >&2; do :; done\n")
    problem = str(one(here, find("tensor01")).problem)
    assert problem.startswith("tensor01: ") and len(problem) < 1000
