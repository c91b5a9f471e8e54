"""Shards from every cluster into one folder, all clusters at once.

    results = sync(clusters, FetchOptions(Path("data/embeddings")))
    [r.problem for r in results]        # None where all went well

A file is fetched into .incoming/<cluster>/, compared with what its producer's manifest says (or
with the size that was listed), listed a second time to see that it is not being written, opened by
the reader that executes nothing, and only then renamed. .sync.json remembers what came from where.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings import child_processes, cluster_ssh, shards
from embeddings.cluster_link import ClusterLink
from embeddings.cluster_listing import ClusterListing, ShardFile
from embeddings.credentials import Cluster
from embeddings.folder_cluster import FolderCluster
from embeddings.sync_record import SyncRecord
from kit import console, lock, publish

INCOMING = ".incoming"
LEFT = re.compile(r"\.(.+)\.[A-Za-z0-9]{6,10}")  # rsync's names for what it receives
SLACK = 1 << 20  # bytes beyond the listing at which a transfer is cut; no longer file is taken
LOCK_SECONDS = 90  # a transfer without answer ends after 60


@dataclass
class FetchOptions:
    """Where shards go and which names they have."""

    folder: Path
    pattern: str = shards.PATTERN
    accept_new: bool = False


@dataclass
class ClusterResult:
    """What one cluster gave."""

    name: str
    fetched: list[str] = field(default_factory=list)
    unchanged: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problem: console.Problem | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as --json prints it."""
        return {
            "cluster": self.name, "fetched": self.fetched, "unchanged": self.unchanged,
            "bytes": self.bytes, "seconds": round(self.seconds, 3),
            "problem": str(self.problem) if self.problem else None,
        }  # fmt: skip


def sync(clusters: list[Cluster], options: FetchOptions) -> list[ClusterResult]:
    """Fetch from every cluster; a Problem of one is in its Result and stops no other."""
    shards.check_pattern(options.pattern)
    twice = {c.name for c in clusters if [d.name for d in clusters].count(c.name) > 1}
    if twice:
        raise console.Misuse(
            f"--clusters: {', '.join(sorted(twice))} is given twice",
            "name each once; folders go by their last part: link to one under another name",
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    prefix = cluster_ssh.private_prefix()
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as private,
        locked(options.folder) as descriptor,
    ):
        record = SyncRecord(options.folder)

        async def fetch_all() -> list[ClusterResult]:
            fetches = [
                ClusterFetch(cluster, options, record, Path(private), descriptor)
                for cluster in clusters
            ]
            return await asyncio.gather(*[fetch.run() for fetch in fetches])

        return child_processes.run_until_signal(fetch_all())


@contextlib.contextmanager
def locked(folder: Path):
    """Exclusive use of .incoming. The transfers inherit it: one that outlives us keeps it."""
    (folder / INCOMING).mkdir(exist_ok=True)
    descriptor = os.open(folder / INCOMING / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline, noted = time.monotonic() + LOCK_SECONDS, False
        while not lock.try_lock(descriptor, str(folder)):
            if time.monotonic() > deadline:
                raise console.Problem(
                    f"{folder}: another sync is going on", "wait until it has ended"
                )
            if not noted:
                console.note(f"waiting for another sync into {folder} to end")
                noted = True
            time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


class ClusterFetch:
    """One cluster: list, fetch what is new, list again, check, publish."""

    def __init__(
        self,
        cluster: Cluster,
        options: FetchOptions,
        record: SyncRecord,
        private: Path,
        descriptor: int,
    ):
        self.cluster, self.options, self.record = cluster, options, record
        self.result = ClusterResult(cluster.name)
        self.incoming = options.folder / INCOMING / cluster.name
        if cluster.folder:
            self.link: Any = FolderCluster(cluster, options.pattern)
        else:
            self.link = ClusterLink(cluster, private, options.pattern, options.accept_new)
        self.link.pass_fds = (descriptor,)

    async def run(self) -> ClusterResult:
        begin = time.monotonic()
        try:
            async with self.link:
                await self.fetch()
        except console.Problem as problem:
            self.result.problem = problem
        except OSError as error:
            self.result.problem = console.Problem(f"{self.cluster.name}: {error}")
        self.result.seconds = time.monotonic() - begin
        return self.result

    async def fetch(self) -> None:
        listing = await self.link.list()
        if not listing.files:
            raise self.problem(f"no file matches {self.options.pattern}", "check --remote-dir")
        entries = self.entries(listing)
        for name in listing.files:
            self.record.claim(name, self.cluster.name)
        new = {
            name: file
            for name, file in listing.files.items()
            if not self.record.unchanged(name, self.cluster.name, file, sha(entries, name))
        }
        self.result.unchanged = len(listing.files) - len(new)
        if new:
            self.prepare(new)
            await self.transfer(new, entries)
            await self.check_still(new)
            self.publish(new, entries)
            shutil.rmtree(self.incoming, ignore_errors=True)
        self.keep_manifest(listing.manifest)

    def entries(self, listing: ClusterListing) -> dict[str, dict[str, Any]]:
        """The manifest's entries, and every listed file as it says."""
        if listing.manifest is None:
            return {}
        where = f"{self.cluster.name}:{self.cluster.remote_dir}/{shards.MANIFEST}"
        entries = shards.parse_manifest(listing.manifest, where)
        entries = shards.matching(entries, self.options.pattern)
        for name in entries.keys() - listing.files.keys():
            raise self.problem(f"{name} is in its manifest and is missing there", "write it again")
        for name, file in listing.files.items():
            size = entries.get(name, {}).get("size")
            if size != file.size:
                what = "is not in its producer's manifest" if size is None else (
                    f"has {file.size} bytes and {size} in its producer's manifest")  # fmt: skip
                raise self.problem(
                    f"{name} {what}: still being written?", "run write_manifest.py there again"
                )
        return entries

    def problem(self, what: str, remedy: str) -> console.Problem:
        return console.Problem(f"{self.cluster.name}: {what}", remedy)

    def prepare(self, new: dict[str, ShardFile]) -> None:
        """Check the disk's free space; reuse what an interrupted run left."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        partial = self.incoming / ".rsync-partial"
        for leftover in self.incoming.iterdir():  # a killed rsync's: it resumes from partial
            match = LEFT.fullmatch(leftover.name)
            if match and leftover.is_file():
                partial.mkdir(exist_ok=True)
                if match[1] in new:
                    os.replace(leftover, partial / match[1])
                else:
                    leftover.unlink()
        for name, file in new.items():
            if not self.arrived(name, file):  # of an earlier state of the shard
                (self.incoming / name).unlink(missing_ok=True)
        need = sum(file.size for file in new.values()) - weight(self.incoming)
        free = shutil.disk_usage(self.incoming).free
        if need > free:
            raise self.problem(
                f"{console.size(need)} to fetch and {console.size(free)} free in "
                f"{self.options.folder}", "free space, or name another --embeddings-dir"
            )  # fmt: skip

    def arrived(self, name: str, file: ShardFile) -> bool:
        """Whether the file is in .incoming as it is there: size, and time, which is set last."""
        try:
            here = (self.incoming / name).stat()
        except FileNotFoundError:
            return False
        return (here.st_size, int(here.st_mtime)) == (file.size, file.mtime)

    async def transfer(self, new: dict[str, ShardFile], entries: dict[str, dict[str, Any]]) -> None:
        """Fetch, with the cluster's progress on stderr; check and flush each file as it comes."""
        total = sum(file.size for file in new.values())
        self.result.bytes = total
        limit = total + weight(self.incoming) + SLACK
        checked: set[str] = set()
        with console.progress(total >> 20, self.cluster.name, "MB") as bar:
            transfer = asyncio.create_task(self.link.fetch(new, self.incoming))
            try:
                while not transfer.done():
                    await asyncio.wait([transfer], timeout=0.3)
                    arrived = weight(self.incoming)
                    if arrived > limit:
                        raise self.problem(
                            f"it sends more than the {console.size(total)} that it listed",
                            "fetch again when its producers have ended; if it goes on, look at "
                            "what that host runs",
                        )
                    bar.update(max(0, (min(total, arrived) >> 20) - bar.n))
                    for name in new.keys() - checked:
                        if not transfer.done() and self.arrived(name, new[name]):
                            await asyncio.to_thread(self.check, name, new[name], sha(entries, name))
                            checked.add(name)
                await transfer
            finally:
                transfer.cancel()
                await asyncio.wait([transfer])
            for name in new.keys() - checked:
                await asyncio.to_thread(self.check, name, new[name], sha(entries, name))
            bar.update((total >> 20) - bar.n)

    async def check_still(self, new: dict[str, ShardFile]) -> None:
        """Check that no file changed while it was fetched."""
        again = (await self.link.list()).files
        for name, file in new.items():
            if again.get(name) != file:
                (self.incoming / name).unlink(missing_ok=True)
                raise self.problem(
                    f"{name} is still being written: it changed while it was fetched",
                    "fetch again when its producer has ended",
                )

    def publish(self, new: dict[str, ShardFile], entries: dict[str, dict[str, Any]]) -> None:
        """Give all files their names."""
        for name, file in new.items():
            os.replace(self.incoming / name, self.options.folder / name)
            self.record.add(name, self.cluster.name, file, sha(entries, name))
            self.result.fetched.append(name)
        publish.fsync_folder(self.options.folder)
        self.record.save()

    def check(self, name: str, file: ShardFile, sha256: str | None) -> None:
        """Size, SHA-256 and the form of a checkpoint, then flush it. A bad file goes."""
        path = self.incoming / name
        try:
            if path.is_symlink() or not self.arrived(name, file):
                raise self.problem(
                    f"{name} is still being written: it came otherwise than it was listed",
                    "fetch again when its producer has ended",
                )
            if sha256 and publish.sha256(path) != sha256:
                raise self.problem(
                    f"{name} is not what its producer wrote (SHA-256)", "fetch again"
                )
            shards.read(path)
            with open(path, "rb") as f:
                os.fsync(f.fileno())
        except console.Problem as problem:
            path.unlink(missing_ok=True)
            if str(self.incoming) in problem.text:
                text = problem.text.replace(str(path), f"{self.cluster.name}: {name}")
                raise console.Problem(text, problem.remedy) from None
            raise

    def keep_manifest(self, raw: bytes | None) -> None:
        """The producer's manifest is kept next to the shards, for the merge."""
        path = self.options.folder / f"{self.cluster.name}.{shards.MANIFEST}"
        if raw is None:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != raw:
            with publish.file(path, "wb") as f:
                f.write(raw)


def sha(entries: dict[str, dict[str, Any]], name: str) -> str | None:
    return entries[name]["sha256"] if name in entries else None


def weight(folder: Path) -> int:
    """Bytes of all files below `folder`, which may change meanwhile."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(inner, name)).st_size
    return total
