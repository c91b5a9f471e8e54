"""Clusters for the tests: real ssh servers on loopback (tests/sshd.sh), each with its own home."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from embeddings import cluster_fetch, credentials
from support.checkout import ROOT

SSHD = ROOT / "tests" / "sshd.sh"
SHARDS = "mapper_embeddings/embeddings"
TOOLS = ["sh", "cat", "tail", "head", "stat", "wc", "sha256sum", "sleep", "ps", "mkdir", "dd"]


class Cluster:
    """One running server. `folder`: where its shards lie; `config`: its ssh configuration."""

    def __init__(self, root: Path, alias: str, password: str | None = None):
        self.root, self.alias, self.password = root / alias, alias, password
        words = ["bash", SSHD, "start", self.root, "--alias", alias]
        words += ["--password", password] if password else []
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode == 77:
            pytest.skip(done.stdout.strip())
        assert done.returncode == 0, done.stderr
        facts = dict(line.split("=", 1) for line in done.stdout.splitlines())
        self.port, self.home = int(facts["SSHD_PORT"]), Path(facts["SSHD_HOME"])
        self.config = Path(facts["SSHD_CONFIG"])
        self.user = self.config.read_text().split("User ")[1].split()[0]
        self.folder = self.home / SHARDS
        self.folder.mkdir(parents=True)

    def stop(self) -> None:
        subprocess.run(["bash", SSHD, "stop", self.root], check=True)

    def credentials(self, folder: Path, **changes) -> Path:
        """Write `.credentials/<alias>.credentials`; a change to ... leaves the field out."""
        values = {"address": "127.0.0.1", "port": self.port, "username": self.user}
        values |= {"remote_dir": SHARDS}
        if self.password:
            values["password"] = self.password
        else:
            values["key_file"] = str(self.root / "id_ed25519")
        values = {k: v for k, v in (values | changes).items() if v is not ...}
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.alias}.credentials"
        path.write_text(json.dumps(values))
        path.chmod(0o600)
        return path

    def tools(self, without: str = "", **scripts: str) -> None:
        """Give sessions a PATH of their own: TOOLS and rsync, less `without`; `scripts` replace."""
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        for name in [*TOOLS, "rsync"]:
            (tools / name).unlink(missing_ok=True)
            program = shutil.which(name)
            if program and name != without:
                (tools / name).symlink_to(program)
        for name, text in scripts.items():
            (tools / name).unlink(missing_ok=True)
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        (self.root / "env").write_text(f"PATH='{tools}'; export PATH\n")


@pytest.fixture
def cluster(monkeypatch):
    """Start clusters: cluster("tensor01"), cluster("tensor02", "a password")."""
    # Not below tmp_path, which is closed to the account that a password needs.
    servers = Path(tempfile.mkdtemp(prefix="tandem-clusters."))
    servers.chmod(0o755)
    started: list[Cluster] = []

    def start(alias: str, password: str | None = None) -> Cluster:
        started.append(Cluster(servers, alias, password))
        config = servers / "ssh_config"
        config.write_text("".join(one.config.read_text() for one in started))
        monkeypatch.setenv("TANDEM_SSH_CONFIG", str(config))
        monkeypatch.setenv("TANDEM_RETRY_WAIT", "0.02")
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.stop()
        shutil.rmtree(servers)


@pytest.fixture
def here(tmp_path):
    """The folder on this machine that the shards come to."""
    return tmp_path / "here"


def find(*names: str, folder: Path | None = None) -> list[credentials.Cluster]:
    """The clusters of these names; `folder` holds their credentials."""
    return [credentials.find(name, folder or Path("/nowhere"), SHARDS) for name in names]


def sync(here: Path, clusters, **options) -> list[cluster_fetch.ClusterResult]:
    results = cluster_fetch.sync(clusters, cluster_fetch.FetchOptions(here, **options))
    assert not glob.glob(f"/tmp/td.{os.getpid()}.*")  # no configuration is left behind
    return results


def one(here: Path, clusters, **options) -> cluster_fetch.ClusterResult:
    (result,) = sync(here, clusters, **options)
    return result


def good(result: cluster_fetch.ClusterResult) -> cluster_fetch.ClusterResult:
    assert result.problem is None, result.problem
    return result


def same(here: Path, remote: Path) -> None:
    """Every shard there is here, byte for byte."""
    paths = sorted(remote.glob("*.pkl"))
    assert paths
    for path in paths:
        assert (here / path.name).read_bytes() == path.read_bytes()
