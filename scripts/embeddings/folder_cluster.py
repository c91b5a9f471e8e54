"""A folder on this machine that stands in for a cluster: the same steps without ssh."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from embeddings import shards
from embeddings.cluster_listing import ClusterListing, ShardFile, check_names
from embeddings.credentials import Cluster
from kit import console


class FolderCluster:
    """Lists and copies as ClusterLink does."""

    def __init__(self, cluster: Cluster, pattern: str):
        self.cluster, self.pattern = cluster, pattern
        self.source = cluster.folder / cluster.remote_dir
        self.pass_fds: tuple[int, ...] = ()

    async def __aenter__(self) -> FolderCluster:
        return self

    async def __aexit__(self, *_: Any) -> None:
        pass

    async def list(self) -> ClusterListing:
        """The shards and the manifest there."""
        if not self.source.is_dir():
            raise console.Problem(
                f"{self.cluster.name}: there is no folder {self.source}", "say --remote-dir"
            )
        stats = {p.name: p.stat() for p in self.source.glob(self.pattern) if p.is_file()}
        check_names(stats, self.pattern, self.cluster.name)
        manifest = self.source / shards.MANIFEST
        return ClusterListing(
            {name: ShardFile(stat.st_size, int(stat.st_mtime)) for name, stat in stats.items()},
            manifest=manifest.read_bytes() if manifest.is_file() else None,
        )

    async def fetch(self, files: dict[str, ShardFile], into: Path) -> None:
        """Copy `files` into the folder `into`."""
        for name in files:
            await asyncio.to_thread(shutil.copy2, self.source / name, into / name)
