#!/usr/bin/env python3
"""The whole training, stage by stage: data_prep, lora, rlhf (if enabled), eval. Plans by default.

    python scripts/training_manager.py                           the plan of every stage, and gaps
    python scripts/training_manager.py --confirm                 do it; continue where it stopped
    python scripts/training_manager.py --stage lora --confirm    one stage
    python scripts/training_manager.py --raw my_texts/ --set training.max_steps=100 --confirm
    python scripts/training_manager.py --set rlhf:enabled=true --set eval:data.max_samples=200

A stage that is done is not done again, until its data, configuration, base model or adapter
change: the state file (adapters/runs/manager.json) holds their hashes. An unfinished training goes
on from its last checkpoint. --set STAGE:KEY=VALUE changes that stage's configuration; without
STAGE it is lora's. Training needs dry_run: false in training_config.yaml as well as --confirm.

Exit codes: 0 good, 1 a stage failed or something is missing, 2 called or configured wrongly,
130/143 interrupted (the same command continues).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from kit import console, paths, report

ORDER = ("data_prep", "lora", "rlhf", "eval")


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--stage", choices=(*ORDER, "all"), default="all")
    parser.add_argument("--confirm", action="store_true", help="do it; without it: only the plan")
    parser.add_argument("--raw", metavar="PATH", help="text for data_prep: a file or a folder")
    parser.add_argument("--collection", metavar="NAME", help="a collection for data_prep instead")
    parser.add_argument("--dataset", metavar="FILE", help="rows for eval; default: lora's val_file")
    parser.add_argument("--run", metavar="RUN", help="the run for rlhf or eval; default: lora's")
    parser.add_argument("--set", action="append", default=[], metavar="[STAGE:]A.B=C", dest="sets")
    parser.add_argument("--config", action="append", default=[], metavar="STAGE:FILE",
                        help="another configuration for a stage")  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, metavar="N",
                        help="GPUs of this host to train on (torchrun)")  # fmt: skip
    parser.add_argument("--state", type=Path, metavar="FILE", help="default runs/manager.json")
    parser.add_argument("--again", action="store_true", help="do finished stages again, too")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.raw and args.collection:
        parser.error("--raw and --collection are two sources; give one")
    args.chosen = ORDER if args.stage == "all" else (args.stage,)
    args.overrides = {name: [] for name in ORDER}
    for text in args.sets:
        stage, value = _addressed(parser, text, "lora")
        args.overrides[stage].append(value)
    args.configs = dict(_addressed(parser, text, None) for text in args.config)
    return args


def _addressed(parser, text: str, default: str | None) -> tuple[str, str]:
    """('lora', 'a.b=c') of 'lora:a.b=c'; a colon after the equals sign belongs to the value."""
    stage, colon, rest = text.partition(":")
    if not colon or "=" in stage:
        stage, rest = default, text
    if stage not in ORDER:
        parser.error(f"{text}: name a stage before the colon ({', '.join(ORDER)})")
    return stage, rest


def make_tasks(args) -> tuple[dict[str, Any], Any]:
    """({name: task}, the state); every configuration is loaded and checked here."""
    from workflow.manager_state import ManagerState
    from workflow.tasks import TASKS

    state = ManagerState(args.state or paths.folder("runs") / "manager.json")
    tasks: dict[str, Any] = {}
    for kind in TASKS:
        tasks[kind.name] = kind(args, state, tasks)
    return tasks, state


def show_result(body: dict[str, Any], args) -> None:
    """One JSON object, or the metrics before and after, and where they are."""
    if args.json:
        print(json.dumps(body, ensure_ascii=False))
        return
    reports = body["stages"].get("eval", {}).get("reports", {})
    if reports:
        names = ["fine-tuned", "after RLHF"] if len(reports) == 2 else ["after"]
        console.result(f"\n{'':14}{'before':>10}" + "".join(f"  {name:>10}" for name in names))
        columns = [body["before"] or {}, *(report["after"] for report in reports.values())]
        for name in body["after"]:
            cells = [f"{c[name]['value']:>10.3f}" if name in c else f"{'-':>10}" for c in columns]
            console.result(f"  {name:<12}{'  '.join(cells)}")
    if body["run"]:
        console.result(f"\nrun  {paths.show(paths.folder('runs') / body['run'])}")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # nothing is downloaded by itself
        os.environ.setdefault(name, "1")
    from workflow import manager

    tasks, state = make_tasks(args)
    log = paths.workdir() / ".cache" / "manager"
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        if args.confirm:
            body = manager.work(tasks, state, args, log)
        else:
            checks, plans = manager.plan(tasks, args, log)
    if args.confirm:
        show_result(body, args)
        return console.GOOD
    why = "Nothing was done: --confirm does it."
    code = report.report(checks, as_json=args.json, stages=plans, dry_run=why)
    if not args.json:
        print(why)
    return code


if __name__ == "__main__":
    console.run(main)
