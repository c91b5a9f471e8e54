"""Many shards, one file: copied in blocks, checked on the way, published whole or not at all.

    manifest = merge(MergeOptions(folder, articles, output, "pickle", items=250_000))

Memory stays near 20 MB beside the list of articles (which a process of its own reads), whatever
the number of rows: a shard's rows are found by their offset, read 1 MB at a time, checked, hashed
and written. The producer's SHA-256 of each shard is compared in a second thread meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from embeddings import merged_formats, merged_manifest, segments, shard_rows, shards
from embeddings.merge_folder import MergeFolder
from embeddings.pickles import writer
from embeddings.shards import Shard
from embeddings.worker import Worker
from kit import console, publish


@dataclass
class MergeOptions:
    """What to merge. `output` is a real path (no link), `format` one of merged_formats.SUFFIXES."""

    folder: Path
    articles: Path
    output: Path
    format: str
    items: int = 250_000
    pattern: str = shards.PATTERN
    any_order: bool = False
    resume: bool = False
    #: (what, remedy) of each
    warnings: list[tuple[str, str]] = field(default_factory=list)


def merge(options: MergeOptions) -> dict[str, Any]:
    """Merge, publish, and return the manifest; each warning goes to `options.warnings`."""
    all_shards = shards.load(options.folder, options.pattern)
    shards.check(all_shards, options.items, options.folder)
    listed = shards.manifests(options.folder)
    listed = shards.matching(listed, options.pattern)
    shards.check_listed(all_shards, listed)
    with MergeFolder(options.output) as folder:
        job = MergeJob(options, [s for s in all_shards if s.start < options.items], listed, folder)
        job.left_out = sum(
            s.end - max(s.start, options.items) for s in all_shards if s.end > options.items
        )
        return job.run()


class MergeJob:
    """One merge: the plan, and what is known of it so far."""

    def __init__(self, options: MergeOptions, used: list[Shard], listed: dict, folder: MergeFolder):
        self.options, self.used, self.listed, self.folder = options, used, listed, folder
        first = used[0]
        self.shape = (options.items, first.dim)
        self.dtype, self.model = first.dtype, first.model or "unknown"
        self.row_bytes = first.dim * int(first.dtype[2:])
        self.header = merged_formats.header(options.format, self.shape, self.dtype, self.model)
        self.data = folder.path("data")
        self.digest = shard_rows.digest_name()
        self.left_out = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        begin = time.perf_counter()
        self.check_space()
        done = self.start()
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(open(self.data, "r+b", buffering=0))
            shard_rows.write(out, self.header, 0)
            import numpy  # noqa: F401  the worker is forked, and then has it too

            worker = stack.enter_context(Worker(self.worker_plan()))
            done = self.copy(out, done, worker)
            articles = worker.result()
            self.seconds["copy"] = time.perf_counter() - begin
            manifest = self.finish(out, done, articles)
            begin = time.perf_counter()
            os.fsync(out.fileno())
            self.seconds["flush"] = time.perf_counter() - begin
        self.publish(manifest)
        return manifest | {"seconds": {k: round(v, 3) for k, v in self.seconds.items()}}

    # Before the rows

    def check_space(self) -> None:
        """Refuse a disk without room for the new output next to the old one."""
        rows_bytes = self.shape[0] * self.row_bytes
        need = rows_bytes + 256 * self.shape[0]
        if self.options.format == "parquet":
            need += rows_bytes
        if self.data.exists():
            need -= self.data.stat().st_blocks * 512
        free = shutil.disk_usage(self.folder.folder).free
        if need > free:
            raise console.Problem(
                f"{self.options.output}: {console.size(need)} are needed and {console.size(free)} "
                f"are free in {self.options.output.parent}",
                "free space, or name an --output on another disk",
            )

    def start(self) -> list[dict[str, Any]]:
        """The staged file, and the shards that an interrupted run has copied whole."""
        o = self.options
        plan = {
            "shards": shards.fingerprint(self.used), "items": o.items, "format": o.format,
            "sha256": [self.listed.get(s.name, {}).get("sha256") for s in self.used],
            "dim": self.shape[1], "dtype": self.dtype, "model": self.model, "digest": self.digest,
        }  # fmt: skip
        done = self.folder.begin(plan, o.resume)
        self.data.touch()
        with open(self.data, "rb", buffering=0) as f:
            good = [entry for entry in done if segments.is_intact(f, entry, self.digest)]
        if o.resume and done:
            kept = len(good)
            console.note(f"resuming: {kept} of {len(self.used)} shards are copied and unharmed")
        return good

    def worker_plan(self) -> dict[str, Any]:
        """What the process that reads the articles has to do."""
        in_pickle = self.options.format == "pickle"
        return {
            "articles": str(self.options.articles),
            "items": self.options.items,
            "any_order": self.options.any_order,
            "target": str(self.data if in_pickle else self.folder.path("articles")),
            "offset": self.offset(self.options.items) if in_pickle else None,
            "digest": self.digest,
        }

    def offset(self, row: int) -> int:
        """Where a row begins in the output."""
        return len(self.header) + row * self.row_bytes

    # The rows

    def copy(self, out: IO[bytes], done: list[dict], worker: Worker) -> list[dict[str, Any]]:
        """Copy and check every shard that is not done; the segments of all, in order."""
        ready = {entry["file"]: entry for entry in done}
        todo = [s for s in self.used if s.name not in ready]
        bar = console.progress(sum(map(self.rows_of, todo)), "merging", "rows")
        with ThreadPoolExecutor(1) as pool, bar:
            try:
                proofs = {s.name: self.prove(pool, s) for s in todo}
                waiting = []
                for shard in todo:
                    worker.check()
                    waiting.append(self.copy_shard(out, shard, bar))
                    while waiting and proofs[waiting[0]["file"]].done():
                        self.accept(ready, proofs, waiting.pop(0))
                for entry in waiting:
                    self.accept(ready, proofs, entry)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return [ready[s.name] for s in self.used]

    def rows_of(self, shard: Shard) -> int:
        """How many of its rows are taken: the last shard also holds the questions."""
        return min(shard.end, self.options.items) - shard.start

    def prove(self, pool: ThreadPoolExecutor, shard: Shard) -> Future:
        """The shard's SHA-256, computed while it is copied, if its producer gave one."""
        if shard.name in self.listed:
            return pool.submit(publish.sha256, shard.path)
        future: Future = Future()
        future.set_result(None)
        return future

    def accept(self, ready: dict, proofs: dict[str, Future], entry: dict[str, Any]) -> None:
        """A copied shard is whole once its SHA-256 is that of the producer."""
        name = entry["file"]
        digest = proofs[name].result()
        if digest is not None and digest != self.listed[name]["sha256"]:
            shard = next(s for s in self.used if s.name == name)
            raise shards.damaged(shard, f"SHA-256 {digest[:12]}... instead of "
                                 f"{self.listed[name]['sha256'][:12]}...")  # fmt: skip
        ready[name] = entry
        self.folder.done([ready[s.name] for s in self.used if s.name in ready])

    def copy_shard(self, out: IO[bytes], shard: Shard, bar: Any) -> dict[str, Any]:
        """Copy one shard's rows; its segment of the output with digest and statistics."""
        statistics, digest = shard_rows.Statistics(), shard_rows.digest(self.digest)
        begin = at = self.offset(shard.start)
        count = self.rows_of(shard)
        with open(shard.path, "rb", buffering=0) as file:
            for block in shard_rows.blocks(file, shard, count):
                statistics.add(block)
                raw = memoryview(block).cast("B")
                digest.update(raw)
                shard_rows.write(out, raw, at)
                at += len(raw)
                bar.update(len(block))
            if not shards.unchanged(shard, file.fileno()):
                raise console.Problem(
                    f"{shard.path}: it changed while it was read: still being written",
                    "merge again when its producer has ended",
                )
        what = f"rows {shard.start}-{shard.start + count}"
        part = segments.segment(what, begin, at - begin, digest)
        return part | {"file": shard.name, "statistics": statistics.state()}

    # After the rows

    def finish(self, out: IO[bytes], done: list[dict], articles: dict) -> dict[str, Any]:
        """Write what follows the articles; the manifest."""
        total = shard_rows.Statistics()
        for entry in done:
            total.join_rows(shard_rows.Statistics(**entry.pop("statistics")))
        about = merged_manifest.about(self.shape, self.model, self.used, total)
        digest = shard_rows.digest(self.digest)
        digest.update(self.header)
        parts = [segments.segment("header", 0, len(self.header), digest), *done]
        if self.options.format == "pickle":
            parts += self.write_end(out, about, articles)
        out.truncate(parts[-1]["offset"] + parts[-1]["length"])
        o = self.options
        o.warnings += merged_manifest.row_warnings(total)
        o.warnings += merged_manifest.input_warnings(
            o.articles.name, articles["total"], o.items, self.left_out, self.used, self.listed
        )
        return merged_manifest.manifest(
            about,
            total,
            layout=o.format,
            digest=self.digest,
            files={o.output.name: {"segments": parts}},
            vectors={"offset": len(self.header), "dtype": self.dtype, "shape": self.shape},
            articles={"source": o.articles.name, "count": articles["count"]},
            left_out=self.left_out,
        )

    def write_end(self, out: IO[bytes], about: dict, articles: dict) -> list[dict[str, Any]]:
        """The pickle's keys after its articles; both segments."""
        begin, length = self.offset(self.options.items), articles["length"]
        written = {"what": "articles", "offset": begin, "length": length}
        end = writer.end(about)
        digest = shard_rows.digest(self.digest)
        digest.update(end)
        shard_rows.write(out, end, begin + length)
        metadata = segments.segment("metadata", begin + length, len(end), digest)
        return [written | {"digest": articles["digest"]}, metadata]

    def publish(self, manifest: dict[str, Any]) -> None:
        """Flush what is not flushed yet, write the manifest beside it, rename all."""
        o, renames = self.options, {"data": self.options.output}
        articles = self.folder.path("articles")
        if o.format == "parquet":
            from embeddings import tables

            table = self.folder.path("table")
            tables.join(self.data, manifest, articles, table)
            renames = {"table": o.output}
            manifest["vectors"].pop("offset")
            whole = segments.of_whole_file(table, self.digest)
            manifest["files"] = {o.output.name: {"segments": whole}}
        elif o.format != "pickle":
            table = merged_formats.articles_of(o.output)
            renames["articles"] = table
            whole = segments.of_whole_file(articles, self.digest)
            manifest["files"][table.name] = {"segments": whole}
        publish.json_file(self.folder.path("manifest"), manifest)
        self.folder.commit(renames | {"manifest": merged_formats.manifest_of(o.output)})
