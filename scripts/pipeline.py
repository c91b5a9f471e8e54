#!/usr/bin/env python3
"""The whole trip, stage by stage: data, up to the host, training there, and back, verified.

    python scripts/pipeline.py --rehearse                    with a miniature and a stand-in host
    python scripts/pipeline.py --rehearse --raw my_texts/    on your own text
    python scripts/pipeline.py --rehearse --host gpu1        over ssh
    python scripts/pipeline.py --host gpu1                   the real one: plans
    python scripts/pipeline.py --host gpu1 --confirm         the real one: trains

A rehearsal works below .rehearsal/ and touches nothing else: not your data, not your adapters. It
runs the very commands of the real trip, on a miniature of the configured model; no download.

Exit codes: 0 good, 1 a stage failed (its log is named), 2 called wrongly, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import time

from kit import console, paths
from workflow import trip


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--rehearse", action="store_true", help="a miniature, below .rehearsal/")
    parser.add_argument(
        "--raw",
        default=os.environ.get("RAW") or None,
        metavar="PATH",
        help="text to learn from: a file or a folder (variable RAW); default: generated examples",
    )
    parser.add_argument(
        "--host",
        default=paths.host_variable() or None,
        help="an ssh name, or a folder beginning with /, ./ or ../ (HOST)",
    )
    parser.add_argument(
        "--confirm", action="store_true", help="the real trip: train, not only plan"
    )
    parser.add_argument("--name", help="the adapter's name; default mapper-lora, or rehearsal")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    trip.refuse_early(args)
    began = time.monotonic()
    with trip.alone(trip.REHEARSAL) if args.rehearse else contextlib.nullcontext():
        journey = trip.take(args)
        if "adapter" in journey.result:
            trip.finish(journey, time.monotonic() - began)
        else:
            print("Nothing was trained. CONFIRM=1 trains, once the config says dry_run: false.")
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
