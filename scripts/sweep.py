#!/usr/bin/env python3
"""Compare settings: train and evaluate each combination, and print one table, best first.

    python scripts/sweep.py --try lora.r=8,16,32 --try training.learning_rate=1e-4,2e-4
    python scripts/sweep.py --try training.learning_rate=1e-5..1e-3 --random 6 --metric f1
    python scripts/sweep.py --try lora.r=8,16 --set training.max_steps=200 --confirm

Plans by default; --confirm trains (and training_config.yaml must say dry_run: false). Each training
is a run of the training manager on the rows in data/processed. The same command again continues
where it stopped; with more values it trains only the new ones. The comparison is in
adapters/runs/sweep-NAME.json. It is made on the validation rows: measure the winner on others.

Exit codes: 0 good, 1 a training failed, 2 called or configured wrongly, 130/143 interrupted
(the same command continues).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys

from config import options
from kit import console, paths


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--try", action="append", required=True, dest="values", metavar="KEY=A,B",
                        help="values to compare; with --random also LOW..HIGH")  # fmt: skip
    parser.add_argument(
        "--random", type=int, metavar="N", help="draw N combinations (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--metric", default="loss", help="what decides (%(default)s)")
    parser.add_argument("--name", default="settings", help="of the sweep (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="[STAGE:]A.B=C", dest="sets",
                        help="a setting of every training, as in training_manager.py")  # fmt: skip
    parser.add_argument("--config", default="training_config.yaml", metavar="FILE")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="GPUs (torchrun)")
    parser.add_argument("--confirm", action="store_true", help="train; without it: only the plan")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.random is not None and args.random < 1:
        parser.error("--random needs a number from 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # nothing is downloaded by itself
        os.environ.setdefault(name, "1")
    from workflow import candidates, sweep_runs

    chosen = candidates.draw(candidates.parse_values(args.values), args.random, args.seed)
    common = ["--config", f"lora:{args.config}", "--processes", str(args.processes)]
    common += options.set_words(args.sets)
    compared = sweep_runs.Sweep(args.name, args.metric, chosen, common)
    lora_sets = [text.removeprefix("lora:") for text in args.sets]
    lora_sets = [text for text in lora_sets if ":" not in text.partition("=")[0]]
    sweep_runs.check(compared, args.config, lora_sets)
    log = paths.workdir() / ".cache" / "sweep"
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        made = sweep_runs.run(compared, log) if args.confirm else sweep_runs.plan(compared, log)
    if not args.confirm:
        return show_plan(compared, made, args.json)
    return show_result(args, made, sweep_runs.table(made, args.metric))


def show_result(args: argparse.Namespace, rows: list, table: str) -> int:
    """The comparison, best first; 1 where a training failed."""
    if args.json:
        print(json.dumps({"sweep": args.name, "metric": args.metric, "candidates": rows}))
    else:
        console.result(f"\n{table}")
        console.result(f"\nbest  {' '.join(rows[0]['settings'])}  run {rows[0]['run']}")
    failed = any(row["state"] == "failed" for row in rows)
    return console.FAILED if failed else console.GOOD


def show_plan(compared, task: dict, as_json: bool) -> int:
    """The candidates, and what the first training would do."""
    if as_json:
        body = {"dry_run": True, "candidates": compared.candidates, "first": task}
        print(json.dumps(body))
        return console.GOOD
    for number, candidate in enumerate(compared.candidates, 1):
        console.result(f"{number:>4}  {' '.join(candidate)}")
    console.result("Nothing was done: --confirm trains them, one after the other.")
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
