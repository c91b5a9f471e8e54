"""Many shards, one file: copied in blocks, checked on the way, published whole or not at all.

    manifest = merge(Options(folder, articles, output, "pickle", items=250_000))

Memory stays near 20 MB beside the list of articles (which a process of its own reads), whatever
the number of rows: a shard's rows are found by their offset, read 1 MB at a time, checked, hashed
and written. The producer's SHA-256 of each shard is compared in a second thread meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from embeddings import formats, rows, shards, staging
from embeddings.pickles import writer
from embeddings.shards import Shard
from embeddings.worker import Worker
from kit import console, publish

VERSION = "tandem-embeddings/1"
QUESTIONS = 10  # rows that follow the articles: the question embeddings of the evaluation


@dataclass
class Options:
    """What to merge. `output` is a real path (no link), `format` one of formats.SUFFIXES."""

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


def merge(options: Options) -> dict[str, Any]:
    """Merge, publish, and return the manifest; each warning goes to `options.warnings`."""
    found = shards.load(options.folder, options.pattern)
    shards.check(found, options.items, options.folder)
    listed = shards.manifests(options.folder)
    listed = shards.matching(listed, options.pattern)
    shards.check_listed(found, listed)
    with staging.Stage(options.output) as stage:
        job = Job(options, [s for s in found if s.start < options.items], listed, stage)
        job.left_out = sum(
            s.end - max(s.start, options.items) for s in found if s.end > options.items
        )
        return job.run()


class Job:
    """One merge: the plan, and what is known of it so far."""

    def __init__(self, options: Options, used: list[Shard], listed: dict, stage: staging.Stage):
        self.options, self.used, self.listed, self.stage = options, used, listed, stage
        first = used[0]
        self.shape = (options.items, first.dim)
        self.dtype, self.model = first.dtype, first.model or "unknown"
        self.row_bytes = first.dim * int(first.dtype[2:])
        self.header = formats.header(options.format, self.shape, self.dtype, self.model)
        self.data = stage.path("data")
        self.digest = rows.digest_name()
        self.left_out = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        begin = time.perf_counter()
        self.check_space()
        done = self.start()
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(open(self.data, "r+b", buffering=0))
            rows.write(out, self.header, 0)
            import numpy  # noqa: F401  the worker is forked, and then has it too

            worker = stack.enter_context(Worker(self.worker_plan()))
            done = self.copy(out, done, worker)
            told = worker.result()
            self.seconds["copy"] = time.perf_counter() - begin
            manifest = self.finish(out, done, told)
            begin = time.perf_counter()
            os.fsync(out.fileno())
            self.seconds["flush"] = time.perf_counter() - begin
        self.publish(manifest)
        return manifest | {"seconds": {k: round(v, 3) for k, v in self.seconds.items()}}

    # Before the rows

    def check_space(self) -> None:
        """The disk holds the new output beside the old one."""
        rows_bytes = self.shape[0] * self.row_bytes
        need = rows_bytes + 256 * self.shape[0]
        if self.options.format == "parquet":
            need += rows_bytes
        if self.data.exists():
            need -= self.data.stat().st_blocks * 512
        free = shutil.disk_usage(self.stage.folder).free
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
        done = self.stage.begin(plan, o.resume)
        self.data.touch()
        with open(self.data, "rb", buffering=0) as f:
            good = [entry for entry in done if segment_is_good(f, entry, self.digest)]
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
            "target": str(self.data if in_pickle else self.stage.path("articles")),
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
        """The shard's SHA-256, computed beside the copying, if its producer gave one."""
        if shard.name in self.listed:
            return pool.submit(publish.sha256, shard.path)
        future: Future = Future()
        future.set_result(None)
        return future

    def accept(self, ready: dict, proofs: dict[str, Future], entry: dict[str, Any]) -> None:
        """A copied shard is whole once its SHA-256 is that of the producer."""
        name = entry["file"]
        found = proofs[name].result()
        if found is not None and found != self.listed[name]["sha256"]:
            shard = next(s for s in self.used if s.name == name)
            raise shards.damaged(shard, f"SHA-256 {found[:12]}... instead of "
                                 f"{self.listed[name]['sha256'][:12]}...")  # fmt: skip
        ready[name] = entry
        self.stage.done([ready[s.name] for s in self.used if s.name in ready])

    def copy_shard(self, out: IO[bytes], shard: Shard, bar: Any) -> dict[str, Any]:
        """Copy one shard's rows; its segment of the output with digest and statistics."""
        statistics, digest = rows.Statistics(), rows.digest(self.digest)
        begin = at = self.offset(shard.start)
        count = self.rows_of(shard)
        with open(shard.path, "rb", buffering=0) as file:
            for block in rows.blocks(file, shard, count):
                statistics.add(block)
                raw = memoryview(block).cast("B")
                digest.update(raw)
                rows.write(out, raw, at)
                at += len(raw)
                bar.update(len(block))
            if not shards.unchanged(shard, file.fileno()):
                raise console.Problem(
                    f"{shard.path}: it changed while it was read: still being written",
                    "merge again when its producer has ended",
                )
        return segment(f"rows {shard.start}-{shard.start + count}", begin, at - begin, digest) | {
            "file": shard.name,
            "statistics": statistics.state(),
        }

    # After the rows

    def finish(self, out: IO[bytes], done: list[dict], told: dict) -> dict[str, Any]:
        """Write what follows the articles; the manifest."""
        total = rows.Statistics()
        for entry in done:
            add(total, entry.pop("statistics"))
        about = self.about(total)
        digest = rows.digest(self.digest)
        digest.update(self.header)
        segments = [segment("header", 0, len(self.header), digest), *done]
        if self.options.format == "pickle":
            begin = self.offset(self.options.items)
            part = {"what": "articles", "offset": begin, "length": told["length"]}
            segments.append(part | {"digest": told["digest"]})
            end = writer.end(about)
            digest = rows.digest(self.digest)
            digest.update(end)
            begin += told["length"]
            rows.write(out, end, begin)
            segments.append(segment("metadata", begin, len(end), digest))
        out.truncate(segments[-1]["offset"] + segments[-1]["length"])
        self.warn(total, told)
        return self.manifest(about, segments, total, told)

    def about(self, total: rows.Statistics) -> dict[str, Any]:
        """The keys of the merged dict beside its vectors and articles."""
        return {
            "total_articles": self.options.items,
            "embedding_dim": self.shape[1],
            "model": self.model,
            "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "shape": self.shape,
            "quality_metrics": total.metrics(),
            "chunk_info": [
                {"file": s.name, "start_index": s.start, "end_index": min(s.end, self.shape[0])}
                | s.about
                for s in self.used
            ],
        }

    def manifest(self, about: dict, segments: list, total: rows.Statistics, told: dict) -> dict:
        """What lies beside the output, as JSON: null where no norm was finite."""
        o, metrics = self.options, about["quality_metrics"]
        metrics = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        return {
            "format": VERSION,
            "layout": o.format,
            "digest": self.digest,
            "files": {o.output.name: {"segments": segments}},
            "vectors": {"offset": len(self.header), "dtype": self.dtype, "shape": self.shape},
            "articles": {"source": o.articles.name, "count": told["count"]},
            **about,
            "quality_metrics": metrics,
            "rows_with_nan": {"count": total.nan, "first": total.nan_rows},
            "rows_with_inf": {"count": total.inf, "first": total.inf_rows},
            "rows_of_zeros": total.zeros,
            "left_out": self.left_out,
        }

    def warn(self, total: rows.Statistics, told: dict[str, Any]) -> None:
        """What a reader of the result should know."""
        o, found = self.options, self.options.warnings
        for what, count, first in (
            ("NaN", total.nan, total.nan_rows),
            ("Inf", total.inf, total.inf_rows),
        ):
            if count:
                shown = ", ".join(map(str, first[:10])) + (" ..." if count > 10 else "")
                found.append((f"{count} rows hold {what}: {shown}", "embed these items again"))
        if total.zeros:
            found.append((f"{total.zeros} rows are all zero", "embed these items again"))
        if self.left_out not in (0, QUESTIONS):
            text = f"{self.left_out} rows after item {o.items} are left out, not {QUESTIONS}"
            found.append((text, "say --items if more articles were embedded"))
        if told["total"] != o.items:
            text = f"{o.articles.name} holds {told['total']} articles; the first {o.items} are used"
            found.append((text, "say --items, or give the articles that were embedded"))
        unlisted = [s.name for s in self.used if s.name not in self.listed]
        if self.listed and unlisted:
            text = f"{len(unlisted)} shards have no SHA-256 from their producer: {unlisted[0]} ..."
            found.append((text, "run write_manifest.py on their cluster, and fetch again"))
        if self.used[0].model is None:
            found.append(("the shards name no model", "write 'model' into each shard"))

    def publish(self, manifest: dict[str, Any]) -> None:
        """Flush what is not flushed yet, write the manifest beside it, rename all."""
        o, renames = self.options, {"data": self.options.output}
        if o.format == "parquet":
            from embeddings import tables

            tables.join(self.data, manifest, self.stage.path("articles"), self.stage.path("table"))
            renames = {"table": o.output}
            manifest["files"] = {}
            manifest["vectors"].pop("offset")
            whole_file(manifest, o.output.name, self.stage.path("table"))
        elif o.format != "pickle":
            beside = formats.articles_of(o.output)
            renames["articles"] = beside
            whole_file(manifest, beside.name, self.stage.path("articles"))
        publish.json_file(self.stage.path("manifest"), manifest)
        self.stage.commit(renames | {"manifest": formats.manifest_of(o.output)})


def add(total: rows.Statistics, state: dict[str, Any]) -> None:
    """Join the statistics of one shard to those of the rows before it."""
    part = rows.Statistics(**state)
    for name in ("nan_rows", "inf_rows"):
        have = getattr(total, name)
        have += [total.rows + n for n in getattr(part, name)][: rows.LISTED - len(have)]
    for name in ("rows", "zeros", "nan", "inf"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    if part.counted:
        total.join(part)


def segment(what: str, offset: int, length: int, digest: Any) -> dict[str, Any]:
    """A stretch of an output file, as the manifest describes it."""
    return {"what": what, "offset": offset, "length": length, "digest": digest.hexdigest()}


def segment_is_good(file: IO[bytes], entry: dict[str, Any], name: str) -> bool:
    """Whether the file's bytes there still have the digest."""
    digest, left = rows.digest(name), entry["length"]
    file.seek(entry["offset"])
    while left:
        block = file.read(min(left, 1 << 20))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return digest.hexdigest() == entry["digest"]


def whole_file(manifest: dict[str, Any], name: str, staged: Path) -> None:
    """Describe a file that is one segment."""
    digest = rows.digest(manifest["digest"])
    with open(staged, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
        size = f.tell()
    manifest["files"][name] = {"segments": [segment("the file", 0, size, digest)]}
