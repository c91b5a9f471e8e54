"""Shards from every cluster into one folder, all clusters at once.

    results = sync(clusters, Options(Path("data/embeddings")))
    [r.problem for r in results]        # None where all went well

A file is fetched into .incoming/<cluster>/, compared with what its producer's manifest says (or
with the far side's size), listed there a second time to see that nobody still writes it, opened by
the reader that executes nothing, and only then renamed. .sync.json remembers what came from where.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings import shards
from embeddings.credentials import Cluster
from embeddings.ssh import NAME, File, Link, Listing
from kit import console, publish
from transfer import host as transfer_host

STATE = ".sync.json"
INCOMING = ".incoming"
LEFT = re.compile(r"\.(.+)\.[A-Za-z0-9]{6,10}")  # rsync's names for what it receives
LOCK_SECONDS = 90  # a transfer without answer ends after 60


@dataclass
class Options:
    """Where shards go and how they are found."""

    folder: Path
    pattern: str = shards.PATTERN
    accept_new: bool = False


@dataclass
class Result:
    """What one cluster gave."""

    name: str
    fetched: list[str] = field(default_factory=list)
    unchanged: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problem: console.Problem | None = None


class FolderLink:
    """A folder on this machine that stands in for a cluster: the same steps without ssh."""

    def __init__(self, cluster: Cluster, pattern: str):
        self.cluster, self.pattern = cluster, pattern
        self.source = cluster.folder / cluster.remote_dir
        self.pass_fds: tuple[int, ...] = ()

    async def __aenter__(self) -> FolderLink:
        return self

    async def __aexit__(self, *_: Any) -> None:
        pass

    async def list(self) -> Listing:
        if not self.source.is_dir():
            raise console.Problem(
                f"{self.cluster.name}: there is no folder {self.source}", "say --remote-dir"
            )
        found = {p.name: p.stat() for p in self.source.glob(self.pattern) if p.is_file()}
        for name in found:
            if not NAME.fullmatch(name):
                raise console.Problem(
                    f"{self.cluster.name}: its file {name[:80]!a} cannot be fetched safely",
                    "rename it",
                )
        manifest = self.source / shards.MANIFEST
        return Listing(
            {name: File(s.st_size, int(s.st_mtime)) for name, s in found.items()},
            manifest=manifest.read_bytes() if manifest.is_file() else None,
        )

    async def fetch(self, files: dict[str, File], into: Path) -> None:
        for name in files:
            await asyncio.to_thread(shutil.copy2, self.source / name, into / name)


def sync(clusters: list[Cluster], options: Options) -> list[Result]:
    """Fetch from every cluster; a Problem of one is in its Result and stops no other."""
    shards.check_pattern(options.pattern)
    twice = {c.name for c in clusters if [d.name for d in clusters].count(c.name) > 1}
    if twice:
        raise console.Misuse(
            f"--clusters: {', '.join(sorted(twice))} stands twice",
            "name each once; folders go by their last part: link to one under another name",
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    transfer_host._sweep()  # what a killed command left
    begin, folder = f"{Path(transfer_host.PRIVATE).name}{os.getpid()}.", "/tmp"
    with tempfile.TemporaryDirectory(prefix=begin, dir=folder) as private:
        return asyncio.run(_sync(clusters, options, Path(private)))


async def _sync(clusters: list[Cluster], options: Options, private: Path) -> list[Result]:
    with locked(options.folder) as lock:
        state = State(options.folder)
        tasks = [Fetch(c, options, state, private, lock).run() for c in clusters]
        return await asyncio.gather(*tasks)


@contextlib.contextmanager
def locked(folder: Path):
    """Exclusive use of .incoming. The transfers inherit it: one that outlives us keeps it."""
    (folder / INCOMING).mkdir(exist_ok=True)
    fd = os.open(folder / INCOMING / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline, said = time.monotonic() + LOCK_SECONDS, False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise console.Problem(
                        f"{folder}: another sync is going on", "wait until it has ended"
                    ) from None
                if not said:
                    console.note(f"waiting for another sync into {folder} to end")
                    said = True
                time.sleep(0.1)
        yield fd
    finally:
        os.close(fd)


class State:
    """.sync.json: for each shard here, the cluster, size, time and SHA-256 it came with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.claims: dict[str, str] = {}
        self.files: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known = json.loads((folder / STATE).read_text(encoding="utf-8"))
            self.files = {n: e for n, e in known.items() if isinstance(e, dict) and "cluster" in e}

    def claim(self, name: str, cluster: str) -> None:
        """One name, one cluster: a second one would overwrite the first one's shard."""
        owners = {self.claims.setdefault(name, cluster)}
        if name in self.files and (self.folder / name).exists():
            owners.add(self.files[name]["cluster"])
        for other in owners - {cluster}:
            raise console.Problem(
                f"{cluster}: its {name} has the name of a shard from {other}",
                "name shards differently on each cluster, or delete the one here",
            )

    def unchanged(self, name: str, cluster: str, file: File, sha256: str | None) -> bool:
        """Whether the file here is the one that is there."""
        try:
            here = (self.folder / name).stat()
        except FileNotFoundError:
            return False
        known = {
            "cluster": cluster, "size": file.size, "mtime": file.mtime,
            "here": [here.st_size, here.st_mtime_ns],
        }  # fmt: skip
        entry = self.files.get(name, {})
        same = all(entry.get(key) == value for key, value in known.items())
        return same and (sha256 is None or entry.get("sha256") == sha256)

    def add(self, name: str, cluster: str, file: File, sha256: str | None) -> None:
        here = (self.folder / name).stat()
        self.files[name] = {
            "cluster": cluster, "size": file.size, "mtime": file.mtime, "sha256": sha256,
            "here": [here.st_size, here.st_mtime_ns],
        }  # fmt: skip

    def save(self) -> None:
        publish.json_file(self.folder / STATE, self.files)


class Fetch:
    """One cluster: list, fetch what is new, list again, check, publish."""

    def __init__(self, cluster: Cluster, options: Options, state: State, private: Path, lock: int):
        self.cluster, self.options, self.state = cluster, options, state
        self.result = Result(cluster.name)
        self.incoming = options.folder / INCOMING / cluster.name
        if cluster.folder:
            self.link: Any = FolderLink(cluster, options.pattern)
        else:
            self.link = Link(cluster, private, options.pattern, options.accept_new)
        self.link.pass_fds = (lock,)

    async def run(self) -> Result:
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
            self.state.claim(name, self.cluster.name)
        new = {
            name: file
            for name, file in listing.files.items()
            if not self.state.unchanged(name, self.cluster.name, file, sha(entries, name))
        }
        self.result.unchanged = len(listing.files) - len(new)
        if new:
            self.prepare(new)
            await self.transfer(new, entries)
            await self.check_still(new)
            self.publish(new, entries)
            shutil.rmtree(self.incoming, ignore_errors=True)
        self.keep_manifest(listing.manifest)

    def entries(self, listing: Listing) -> dict[str, dict[str, Any]]:
        """The manifest's entries, and every listed file as it says."""
        if listing.manifest is None:
            return {}
        where = f"{self.cluster.name}:{self.cluster.remote_dir}/{shards.MANIFEST}"
        entries = shards.parse_manifest(listing.manifest, where)
        entries = shards.matching(entries, self.options.pattern)
        for name in entries.keys() - listing.files.keys():
            raise self.problem(f"{name} stands in its manifest and is not there", "write it again")
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

    def prepare(self, new: dict[str, File]) -> None:
        """Room on the disk; and what an interrupted run left goes where it is of use."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        partial = self.incoming / ".rsync-partial"
        for left in self.incoming.iterdir():  # a killed rsync's: it resumes from partial
            found = LEFT.fullmatch(left.name)
            if found and left.is_file():
                partial.mkdir(exist_ok=True)
                if found[1] in new:
                    os.replace(left, partial / found[1])
                else:
                    left.unlink()
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

    def arrived(self, name: str, file: File) -> bool:
        """Whether the file is in .incoming as it is there: size, and time, which is set last."""
        try:
            here = (self.incoming / name).stat()
        except FileNotFoundError:
            return False
        return (here.st_size, int(here.st_mtime)) == (file.size, file.mtime)

    async def transfer(self, new: dict[str, File], entries: dict[str, dict[str, Any]]) -> None:
        """Fetch, with the cluster's progress on stderr; check and flush each file as it comes."""
        total = sum(file.size for file in new.values())
        self.result.bytes = total
        checked: set[str] = set()
        with console.progress(total >> 20, self.cluster.name, "MB") as bar:
            transfer = asyncio.create_task(self.link.fetch(new, self.incoming))
            try:
                while not transfer.done():
                    await asyncio.wait([transfer], timeout=0.3)
                    bar.update(max(0, (min(total, weight(self.incoming)) >> 20) - bar.n))
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

    async def check_still(self, new: dict[str, File]) -> None:
        """Nobody wrote to the files while they were fetched."""
        again = (await self.link.list()).files
        for name, file in new.items():
            if again.get(name) != file:
                (self.incoming / name).unlink(missing_ok=True)
                raise self.problem(
                    f"{name} is still being written: it changed while it was fetched",
                    "fetch again when its producer has ended",
                )

    def publish(self, new: dict[str, File], entries: dict[str, dict[str, Any]]) -> None:
        """Give all files their names."""
        for name, file in new.items():
            os.replace(self.incoming / name, self.options.folder / name)
            self.state.add(name, self.cluster.name, file, sha(entries, name))
            self.result.fetched.append(name)
        publish.fsync_folder(self.options.folder)
        self.state.save()

    def check(self, name: str, file: File, sha256: str | None) -> None:
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
            if str(self.incoming) in str(problem):
                text = str(problem).replace(str(path), f"{self.cluster.name}: {name}")
                raise console.Problem(text) from None
            raise

    def keep_manifest(self, raw: bytes | None) -> None:
        """The producer's manifest lies beside the shards, for the merge."""
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
