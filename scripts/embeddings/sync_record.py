""".sync.json: for each shard here, the cluster, size, time and SHA-256 that it came with."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from embeddings.cluster_listing import ShardFile
from kit import console, publish

RECORD = ".sync.json"


class SyncRecord:
    """What is known of the shards in `folder`; `save` writes it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.claims: dict[str, str] = {}
        self.files: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            self.files = {n: e for n, e in known.items() if isinstance(e, dict) and "cluster" in e}

    def claim(self, name: str, cluster: str) -> None:
        """One name, one cluster: a second one would overwrite the first one's shard.

        Names that differ in case alone are one file on some disks, so they count as one.
        """
        owners = {self.claims.setdefault(name.casefold(), cluster)}
        if name in self.files and (self.folder / name).exists():
            owners.add(self.files[name]["cluster"])
        for other in owners - {cluster}:
            raise console.Problem(
                f"{cluster}: its {name} has the name of a shard from {other}",
                "name shards differently on each cluster, or delete the one here",
            )

    def unchanged(self, name: str, cluster: str, file: ShardFile, sha256: str | None) -> bool:
        """Whether the file here is the one that is there."""
        try:
            here = (self.folder / name).stat()
        except FileNotFoundError:
            return False
        expected = {
            "cluster": cluster, "size": file.size, "mtime": file.mtime,
            "here": [here.st_size, here.st_mtime_ns],
        }  # fmt: skip
        entry = self.files.get(name, {})
        same = all(entry.get(key) == value for key, value in expected.items())
        return same and (sha256 is None or entry.get("sha256") == sha256)

    def add(self, name: str, cluster: str, file: ShardFile, sha256: str | None) -> None:
        """Note a shard that was just published here."""
        here = (self.folder / name).stat()
        self.files[name] = {
            "cluster": cluster, "size": file.size, "mtime": file.mtime, "sha256": sha256,
            "here": [here.st_size, here.st_mtime_ns],
        }  # fmt: skip

    def save(self) -> None:
        publish.json_file(self.folder / RECORD, self.files)
