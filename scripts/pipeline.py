#!/usr/bin/env python3
"""The whole trip, stage by stage: data, up to the host, training there, and back, verified.

    python scripts/pipeline.py --rehearse                    with a miniature and a stand-in host
    python scripts/pipeline.py --rehearse --raw my_texts/    on your own text
    python scripts/pipeline.py --rehearse --host gpu1        over ssh
    python scripts/pipeline.py --rehearse --host login --engine slurm
    python scripts/pipeline.py --rehearse --full --host gpu1      the configured size, ten steps
    python scripts/pipeline.py --host gpu1                   the real one: plans
    python scripts/pipeline.py --host gpu1 --confirm         the real one: trains

A rehearsal works below .rehearsal/ and touches nothing else: not your data, not your adapters. It
runs the very commands of the real trip, on a miniature of the configured model; no download.
With --full the model has its real size and random weights: ten steps of the longest rows, a
checkpoint, a resume and an evaluation show memory, speed, time and price before they are paid for
(without a GPU, on Linux with gcc, a stand-in shows memory alone).

Exit codes: 0 good, 1 a stage failed (its log is named), 2 called wrongly, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time

from adapters import metrics
from kit import console, paths
from workflow import full_trip, trip, trip_stages


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
    parser.add_argument("--engine", default=os.environ.get("ENGINE") or "",
                        help="slurm: train and evaluate in jobs; HOST: login node")  # fmt: skip
    for name, what in trip.JOB_OPTIONS.items():
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()) or "", help=what)
    parser.add_argument(
        "--confirm", action="store_true", help="the real trip: train, not only plan"
    )
    parser.add_argument("--full", action="store_true", help="a rehearsal at the configured size")
    parser.add_argument("--gpu", metavar="NAME", help="the stand-in's card: 'RTX 4090' (--full)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                        help="replace one value of training_config.yaml (--full)")  # fmt: skip
    parser.add_argument("--name", help="the adapter's name; default mapper-lora, or rehearsal")
    return parser.parse_args(argv)


def show_result(journey: trip.Trip, seconds: float) -> None:
    """The metrics before and after, where the adapter is, and the next command."""
    before, after = journey.result["before"], journey.result["after"]
    console.result(f"\n{'':14}{'before':>8}  {'after':>8}")
    names = sorted((metric.name for metric in metrics.METRICS), key=lambda name: name != "loss")
    for name in names:
        values = [trip_stages.metric_text(measured, name) for measured in (before, after)]
        console.result(f"  {name:<12}{values[0]:>8}  {values[1]:>8}")
    adapter = journey.result["adapter"]
    folder = journey.laptop / "adapters" / adapter.replace("@", "/")
    run = journey.laptop / "adapters" / "runs" / journey.result["run"]
    console.result(f"\nadapter  {adapter}  {paths.show(folder)}")
    console.result(f"report   {paths.show(run / 'report.html')}")
    console.result(f"time     {console.duration(seconds)}")
    if journey.rehearsal:
        report = journey.result | {"seconds": seconds, "stages": journey.stages.done}
        (trip.REHEARSAL / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        raw = f" RAW={shlex.quote(str(journey.raw))}" if journey.raw else ""
        host = "gpu1" if journey.local_folder else journey.host
        console.result("\nOn a real host, with the configured model:")
        console.result(f"  make pipeline HOST={host}{raw} CONFIRM=1")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    trip.refuse_early(args)
    began = time.monotonic()
    only = trip.only_rehearsal(trip.REHEARSAL) if args.rehearse else contextlib.nullcontext()
    with only:
        journey = trip.Trip(args)
        (full_trip if args.full else trip_stages).run_all(journey)
        if args.full:
            full_trip.show_result(journey, time.monotonic() - began)
        elif "adapter" in journey.result:
            show_result(journey, time.monotonic() - began)
        else:
            console.result(
                "Nothing was trained. CONFIRM=1 trains, once the config says dry_run: false."
            )
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
