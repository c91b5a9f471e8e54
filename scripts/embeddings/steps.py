"""The two steps of the command, fetching and merging, each with the checks that it reports."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from kit import console, paths
from kit.report import Check, failed

AGAIN = "then run the same command again; --merge-only merges what is here"


def complete(args: argparse.Namespace) -> None:
    """Fill in the places that were not given; a Misuse if they do not fit together."""
    from embeddings import articles, merged_formats, shards

    shards.check_pattern(args.pattern)
    args.embeddings_dir = args.embeddings_dir or paths.folder("embeddings")
    args.articles = args.articles or paths.folder("data_raw") / "wikipedia.pkl"
    suffix = merged_formats.SUFFIXES[args.format or "pickle"]
    output = args.output or paths.folder("embeddings") / f"wikipedia_merged{suffix}"
    args.format = merged_formats.choose(output, args.format)
    args.output = Path(os.path.realpath(output))
    if args.embeddings_dir.exists() and not args.embeddings_dir.is_dir():
        raise console.Misuse(f"--embeddings-dir {args.embeddings_dir} is a file", "name a folder")
    if args.sync_only:
        refuse_merging_options(args)
    else:
        articles.kind_of(args.articles)  # before an hour of fetching, not after it
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in str(args.output)):
        raise console.Misuse(f"--output {str(args.output)!a} is not UTF-8", "name it otherwise")
    if args.output.is_dir():
        raise console.Misuse(f"--output {output} is a folder", "name a file")
    if args.output.match(args.pattern) and args.output.parent == args.embeddings_dir.resolve():
        raise console.Misuse(f"--output {output} has the name of a shard", "name it otherwise")
    if args.index_dir and not args.index:
        raise console.Misuse("--index-dir without --index", "say --index chroma or parquet-shards")


def refuse_merging_options(args: argparse.Namespace) -> None:
    """--sync-only ends before the merge: an option of the merge would be ignored silently."""
    unused = [name for name in ("index", "resume") if getattr(args, name)]
    if unused:
        options = " and ".join(f"--{name}" for name in unused)
        raise console.Misuse(
            f"--sync-only does not merge, so {options} would do nothing",
            f"leave out --sync-only, or {options}",
        )


def fetch(args: argparse.Namespace) -> tuple[list[Check], list[dict[str, Any]]]:
    """Fetch from all clusters: a check for each, and the ranges that are missing after that."""
    from embeddings import cluster_fetch, credentials

    names = (args.clusters or "").split() or credentials.known(args.credentials_dir)
    if not names:
        raise console.Misuse(
            f"no clusters: {args.credentials_dir} holds no *.credentials",
            'write one (docs/EMBEDDINGS.md), say --clusters "gpu1 gpu2", or --merge-only',
        )
    clusters = [credentials.find(n, args.credentials_dir, args.remote_dir) for n in names]
    console.say(f"fetching from {', '.join(c.name for c in clusters)}")
    options = cluster_fetch.FetchOptions(
        args.embeddings_dir, args.pattern, args.accept_new_host_key
    )
    results = cluster_fetch.sync(clusters, options)
    checks = [cluster_check(result) for result in results]
    checks += missing_items(args, any(result.problem for result in results))
    return checks, [result.as_json() for result in results]


def missing_items(args: argparse.Namespace, incomplete: bool) -> list[Check]:
    """Which items are missing after a sync, where a cluster failed or nothing merges."""
    from embeddings import shards

    if not (incomplete or args.sync_only):
        return []
    try:
        loaded = shards.load(args.embeddings_dir, args.pattern)
    except console.Problem as problem:
        return [then_again("shards", problem)]
    gaps = shards.missing(loaded, args.items)
    text = shards.ranges(gaps) + " are missing" if gaps else f"items 0-{args.items} are here"
    if incomplete:
        fix = f"see the failed clusters, {AGAIN}"
        return [Check("shards", "fail", f"{text}; nothing was merged", fix)]
    return [Check("shards", "warn" if gaps else "ok", text, "fetch from the other clusters too")]


def then_again(name: str, problem: console.Problem) -> Check:
    """A failed check whose fix is to run the command again."""
    return Check(name, "fail", problem.text, f"{problem.remedy or 'see there'}; {AGAIN}")


def cluster_check(result: Any) -> Check:
    """What one cluster gave, or why it gave nothing."""
    if result.problem:
        return then_again(result.name, result.problem)
    text = f"{result.unchanged} unchanged"
    if result.fetched:
        rate = console.size(result.bytes / max(result.seconds, 0.001))
        size = console.size(result.bytes)
        text = f"{len(result.fetched)} shards fetched ({size}, {rate}/s), {text}"
    return Check(result.name, "ok", text)


def merge(args: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Merge, publish, index: checks, and the facts of the merged file."""
    from embeddings import merge as merging

    console.say(f"merging into {paths.show(args.output)}")
    options = merging.MergeOptions(
        args.embeddings_dir, args.articles, args.output, args.format, args.items, args.pattern,
        args.articles_order == "any", args.resume,
    )  # fmt: skip
    begin = time.perf_counter()
    manifest = merging.merge(options)
    seconds = time.perf_counter() - begin
    rows, dim = manifest["shape"]
    size = console.size(args.output.stat().st_size)
    kind = f"{rows} x {dim} {manifest['vectors']['dtype']}"
    text = f"{kind}, {size}, {console.duration(seconds)}"
    checks = [Check(paths.show(args.output), "ok", text)]
    checks += [Check("merged", "warn", what, fix) for what, fix in options.warnings]
    if args.index:
        checks.append(index(args, options, manifest))
    files = {name: file["segments"] for name, file in manifest.pop("files").items()}
    merged = {"output": str(args.output), "files": sorted(files)} | manifest
    return checks, merged


def index(args: argparse.Namespace, options: Any, manifest: dict[str, Any]) -> Check:
    """Load the merged vectors where they are used; the merged file stays if that fails."""
    from embeddings import vector_index

    console.say(f"loading the vectors into {args.index}")
    try:
        where = vector_index.load(args.index, args.output, manifest, options, args.index_dir)
    except console.Problem as problem:
        return failed(args.index, problem)
    return Check(args.index, "ok", f"{manifest['shape'][0]} vectors in {paths.show(where)}")
