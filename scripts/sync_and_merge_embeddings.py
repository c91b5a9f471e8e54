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
130/143 interrupted (the same command continues; add --resume for the merge).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from kit import console, paths
from kit.report import Check, failed, report


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


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.verify:
        from embeddings import merged_check

        return report(merged_check.verify(Path(os.path.realpath(args.verify))), args.json)
    try:
        checks, extra = work(args)
    except (KeyboardInterrupt, SystemExit):
        again = "; --resume keeps the shards that were merged" if not args.sync_only else ""
        console.note(f"interrupted; run it again{again}")
        raise
    return report(checks, args.json, **extra)


def work(args: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Fetch, then merge, unless one of them is left out or a cluster failed."""
    from embeddings import steps

    steps.complete(args)
    checks: list[Check] = []
    extra: dict[str, Any] = {}
    if not args.merge_only:
        checks, extra["clusters"] = steps.fetch(args)
    if not args.sync_only and all(check.status != "fail" for check in checks):
        try:
            more, extra["merged"] = steps.merge(args)
        except console.Problem as problem:
            if not checks:
                raise
            more = [failed("merged", problem)]  # the report still says what was fetched
        checks += more
    return checks, extra


if __name__ == "__main__":
    console.run(main)
