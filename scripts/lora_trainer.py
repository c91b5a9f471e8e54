#!/usr/bin/env python3
"""Train a LoRA or QLoRA adapter on train_sft.jsonl. Plans by default; trains when told twice.

    python scripts/lora_trainer.py                          plan: data, steps, memory, gaps
    python scripts/lora_trainer.py --confirm-run            train, if the config says dry_run: false
    python scripts/lora_trainer.py --confirm-run --resume   go on with the latest unfinished run
    python scripts/lora_trainer.py --estimate               memory and time for 24 GB and 80 GB
    torchrun --nproc_per_node 2 scripts/lora_trainer.py --confirm-run

A run is adapters/runs/<run-id>/: config.yaml, status.json (with heartbeat), metrics.jsonl, log.txt,
checkpoints/, final/ (a PEFT folder). The run's folder is the one result line on stdout.

Exit codes: 0 good, 1 something is missing or the training failed, 2 called or configured wrongly,
130/143 interrupted (a checkpoint is kept: --resume goes on, bit for bit).
"""

from __future__ import annotations

import json
import os

from config import loader
from kit import console, report


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    parser.add_argument(
        "--config", default="training_config.yaml", help="a file, or a name in configs/"
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument(
        "--dry-run", action="store_true", help="plan only, whatever the config says"
    )
    parser.add_argument(
        "--confirm-run", action="store_true", help="the second yes that training needs"
    )
    parser.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="a run id; default latest"
    )
    parser.add_argument("--estimate", action="store_true", help="print memory and time, and end")
    parser.add_argument(
        "--run-id", help="the new run's name; default: date, time and four hex digits"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(argv)


def missing_opt_in(args, settings) -> str:
    """Which of the two yeses is still missing: '' when the run may start."""
    if args.dry_run:
        return "--dry-run was given"
    if settings.safety.dry_run:
        return "the config says dry_run: true (safety.dry_run; also --set safety.dry_run=false)"
    return "" if args.confirm_run else "--confirm-run was not given"


def show_plan(args, settings, why: str) -> int:
    """Print the plan and its checks; 1 where something is missing."""
    from training import plan

    made = plan.make(settings)
    if args.json:
        return report.report(made.checks, as_json=True, plan=made.facts, dry_run=why)
    print("\n".join(plan.lines(made)))
    code = report.report(made.checks)
    print(
        f"Nothing was trained: {why}." if not args.estimate else "An estimate; nothing was trained."
    )
    return code


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    settings = loader.load(args.config, args.overrides, kind="training_config")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded by itself
    why = "--estimate was given" if args.estimate else missing_opt_in(args, settings)
    if why:
        return show_plan(args, settings, why)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from training import lora, plan, resume

    plan.check(settings)
    rank_zero = os.environ.get("RANK", "0") == "0"
    run, checkpoint = (None, None)
    if rank_zero:
        run, checkpoint = resume.chosen(args.resume, args.run_id, settings)
    try:
        code, run = lora.train(settings, run, checkpoint)
    finally:
        resume.leave(run)
    if rank_zero and code == console.GOOD:
        print(json.dumps({"run": str(run), "state": "completed"}) if args.json else run)
    return code


if __name__ == "__main__":
    console.run(main)
