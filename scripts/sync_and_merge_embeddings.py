#!/usr/bin/env python3
"""Fetch embedding shards from GPU hosts, all at once, and merge them into one checked file.

    python scripts/sync_and_merge_embeddings.py --clusters "tensor01 tensor02"
    python scripts/sync_and_merge_embeddings.py --merge-only     what is in data/embeddings already
    python scripts/sync_and_merge_embeddings.py --verify data/embeddings/wikipedia_merged.pkl

A cluster is a file .credentials/NAME.credentials (JSON, mode 0600), an ssh name, or a folder
beginning with /, ./ or ../ that stands in for a host. Shards are dict pickles with embeddings,
start_index and end_index; nothing in them is executed. The merged file appears whole and checked,
or not at all. docs/EMBEDDINGS.md: the guide, what can go wrong, the formats.

Exit codes: 0 good, 1 a cluster, a shard or the merge failed, 2 called or configured wrongly,
130/143 interrupted (the same command goes on; add --resume for the merge).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from kit import console, paths
from kit.report import Check, failed, report

CLUSTER_FIX = "mend that and run the same command again; --merge-only merges what is here"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = console.ArgumentParser(__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--sync-only", action="store_true", help="fetch, do not merge")
    only.add_argument("--merge-only", action="store_true", help="merge what is here already")
    only.add_argument("--verify", type=Path, metavar="FILE", help="compare with its manifest")
    add = parser.add_argument_group("fetching").add_argument
    add("--clusters", metavar='"A B"', help="default: every .credentials/*.credentials")
    add("--remote-dir", metavar="DIR", help="shards on the host (mapper_embeddings/embeddings)")
    add("--pattern", default="cluster*_gpu*.pkl", help="the shards' names (%(default)s)")
    add("--credentials-dir", type=Path, default=paths.ROOT / ".credentials", metavar="DIR")
    add("--accept-new-host-key", action="store_true", help="trust a host never seen before")
    add = parser.add_argument_group("merging").add_argument
    add("--embeddings-dir", type=Path, metavar="DIR", help="shards here (data/embeddings)")
    add("--articles", type=Path, metavar="FILE", help=".pkl, .jsonl or .parquet "
        "(data/raw/wikipedia.pkl)")  # fmt: skip
    add("--articles-order", choices=("id", "any"), default="id",
        help="any: the ids need not ascend (default: %(default)s)")  # fmt: skip
    add("--items", type=positive, default=250_000, metavar="N", help="rows (%(default)s)")
    add("--output", type=Path, metavar="FILE", help="data/embeddings/wikipedia_merged.pkl")
    add("--format", choices=("pickle", "npy", "parquet", "safetensors"), help="default: by suffix")
    add("--resume", action="store_true", help="go on with an interrupted merge")
    add("--index", choices=("chroma", "parquet-shards"), help="load the merged vectors there")
    add("--index-dir", type=Path, metavar="DIR", help="data/chroma; OUTPUT.shards")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def fetch(args: argparse.Namespace) -> tuple[list[Check], list[dict[str, Any]]]:
    """Fetch from all clusters: a check for each, and the ranges that are missing after that."""
    from embeddings import credentials
    from embeddings import fetch as fetching

    names = (args.clusters or "").split() or credentials.known(args.credentials_dir)
    if not names:
        raise console.Misuse(
            f"no clusters: {args.credentials_dir} holds no *.credentials",
            'write one (docs/EMBEDDINGS.md), say --clusters "gpu1 gpu2", or --merge-only',
        )
    clusters = [credentials.find(n, args.credentials_dir, args.remote_dir) for n in names]
    console.say(f"fetching from {', '.join(c.name for c in clusters)}")
    options = fetching.Options(args.embeddings_dir, args.pattern, args.accept_new_host_key)
    results = fetching.sync(clusters, options)
    checks = [cluster_check(result) for result in results]
    checks += what_is_here(args, any(result.problem for result in results))
    return checks, [summary(result) for result in results]


def what_is_here(args: argparse.Namespace, incomplete: bool) -> list[Check]:
    """Which items are missing after a sync: to be known if a cluster failed or nothing merges."""
    from embeddings import shards

    if not (failed or args.sync_only):
        return []
    try:
        found = shards.load(args.embeddings_dir, args.pattern)
    except console.Problem as problem:
        return [Check("shards", "fail", str(problem), CLUSTER_FIX)]
    gaps = shards.missing(found, args.items)
    text = shards.ranges(gaps) + " are missing" if gaps else f"items 0-{args.items} are here"
    if incomplete:
        return [Check("shards", "fail", f"{text}; nothing was merged", CLUSTER_FIX)]
    return [Check("shards", "warn" if gaps else "ok", text, "fetch from the other clusters too")]


def cluster_check(result: Any) -> Check:
    """What one cluster gave, or why it gave nothing."""
    if result.problem:
        return Check(result.name, "fail", str(result.problem), CLUSTER_FIX)
    found = f"{result.unchanged} unchanged"
    if result.fetched:
        rate = console.size(result.bytes / max(result.seconds, 0.001))
        size = console.size(result.bytes)
        found = f"{len(result.fetched)} shards fetched ({size}, {rate}/s), {found}"
    return Check(result.name, "ok", found)


def summary(result: Any) -> dict[str, Any]:
    return {
        "cluster": result.name, "fetched": result.fetched, "unchanged": result.unchanged,
        "bytes": result.bytes, "seconds": round(result.seconds, 3),
        "problem": str(result.problem) if result.problem else None,
    }  # fmt: skip


def merge(args: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Merge, publish, index: checks, and what there is to know of the merged file."""
    from embeddings import merge as merging

    console.say(f"merging into {paths.show(args.output)}")
    options = merging.Options(
        args.embeddings_dir, args.articles, args.output, args.format, args.items, args.pattern,
        args.articles_order == "any", args.resume,
    )  # fmt: skip
    begin = time.perf_counter()
    manifest = merging.merge(options)
    seconds = time.perf_counter() - begin
    rows, dim = manifest["shape"]
    size = console.size(args.output.stat().st_size)
    kind = f"{rows} x {dim} {manifest['vectors']['dtype']}"
    checks = [Check(paths.show(args.output), "ok",
                    f"{kind}, {size}, {console.duration(seconds)}")]  # fmt: skip
    checks += [Check("merged", "warn", found, fix) for found, fix in options.warnings]
    if args.index:
        from embeddings import index

        console.say(f"loading the vectors into {args.index}")
        try:
            where = index.load(args.index, args.output, manifest, options, args.index_dir)
            checks.append(Check(args.index, "ok", f"{rows} vectors in {paths.show(where)}"))
        except console.Problem as problem:  # the merged file stands all the same
            checks.append(failed(args.index, problem))
    files = {name: file["segments"] for name, file in manifest.pop("files").items()}
    merged = {"output": str(args.output), "files": sorted(files)} | manifest
    return checks, merged


def complete(args: argparse.Namespace) -> None:
    """Fill in the places that were not given; a Misuse if they do not fit together."""
    from embeddings import articles, formats, shards

    shards.check_pattern(args.pattern)
    args.embeddings_dir = args.embeddings_dir or paths.folder("embeddings")
    args.articles = args.articles or paths.folder("data_raw") / "wikipedia.pkl"
    suffix = formats.SUFFIXES[args.format or "pickle"]
    output = args.output or paths.folder("embeddings") / f"wikipedia_merged{suffix}"
    args.format = formats.choose(output, args.format)
    args.output = Path(os.path.realpath(output))
    if args.embeddings_dir.exists() and not args.embeddings_dir.is_dir():
        raise console.Misuse(f"--embeddings-dir {args.embeddings_dir} is a file", "name a folder")
    if not args.sync_only:
        articles.kind_of(args.articles)  # before an hour of fetching, not after it
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in str(args.output)):
        raise console.Misuse(f"--output {str(args.output)!a} is not UTF-8", "name it otherwise")
    if args.output.is_dir():
        raise console.Misuse(f"--output {output} is a folder", "name a file")
    if args.output.match(args.pattern) and args.output.parent == args.embeddings_dir.resolve():
        raise console.Misuse(f"--output {output} has the name of a shard", "name it otherwise")
    if args.index_dir and not args.index:
        raise console.Misuse("--index-dir without --index", "say --index chroma or parquet-shards")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.verify:
        from embeddings import verify

        return report(verify.verify(Path(os.path.realpath(args.verify))), args.json)
    complete(args)
    checks: list[Check] = []
    extra: dict[str, Any] = {}
    if not args.merge_only:
        checks, extra["clusters"] = fetch(args)
    if not args.sync_only and all(c.status != "fail" for c in checks):
        try:
            more, extra["merged"] = merge(args)
        except console.Problem as problem:
            if not checks:
                raise
            more = [failed("merged", problem)]  # what was fetched is told all the same
        checks += more
    return report(checks, args.json, **extra)


if __name__ == "__main__":
    console.run(main)
