"""What reward_model.py and ppo_trainer.py have in common: options, the two yeses, plan or run."""

from __future__ import annotations

import json
import os
from typing import Any

from kit import console


def add_options(parser) -> None:
    """The options that both commands take."""
    parser.add_argument("--config", default="rlhf.yaml", help="a file, or a name in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--dry-run", action="store_true", help="plan only, even when enabled")
    parser.add_argument(
        "--confirm-run", action="store_true", help="the second yes that training needs"
    )
    parser.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="a run id; default latest"
    )
    parser.add_argument(
        "--run-id", help="the new run's name; default: date, time and four hex digits"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def settings_of(args, flags: list[str] | None = None) -> Any:
    """The RlhfConfig of --config, --set and flags."""
    from config import loader

    return loader.load(args.config, [*args.overrides, *(flags or [])], kind="rlhf")


def missing_opt_in(args, settings) -> str:
    """Which of the two yeses is still missing: '' when the run may start."""
    if args.dry_run:
        return "--dry-run was given"
    if not settings.enabled:
        return "RLHF is disabled (enabled: false in rlhf.yaml; also --set enabled=true)"
    return "" if args.confirm_run else "--confirm-run was not given"


def run(kind: str, args, settings) -> int:
    """Plan, or train when told twice; the exit code."""
    from rlhf import session

    session.calm()
    why = missing_opt_in(args, settings)
    rank_zero = os.environ.get("RANK", "0") == "0"
    if rank_zero:
        for line in session.DANGERS:
            console.warn(line)
    if why:
        return _show_plan(kind, args, settings, why)
    return _train(kind, args, settings, rank_zero)


def _show_plan(kind: str, args, settings, why: str) -> int:
    from kit import report
    from rlhf import plan

    made = plan.make(kind, settings)
    if args.json:
        return report.report(made.checks, as_json=True, plan=made.facts, dry_run=why)
    print("\n".join(plan.lines(made)))
    code = report.report(made.checks)
    print(f"Nothing was trained: {why}.")
    return code


def _train(kind: str, args, settings, rank_zero: bool) -> int:
    from rlhf import plan, session
    from training import plan as sft
    from training import resume, run_folder

    run, checkpoint = None, None
    if args.resume and kind == "ppo":
        raise console.Misuse(
            "TRL's PPO cannot resume",
            "start anew, or from a checkpoint: --adapter RUN/checkpoints/…",
        )
    if args.resume == "latest":
        args.resume = run_folder.unfinished(kinds=(kind,)).name
    if args.resume:
        began = resume.folder(args.resume)
        run_folder.read_status(began)
        settings = session.keep_what_began(settings, began)
    job = plan.resolve(kind, settings)
    sft.check_disk(settings)
    if rank_zero:
        run, checkpoint = resume.chosen(args.resume, args.run_id, job.settings, (kind,))
    try:
        code, run = session.train(job, run, checkpoint)
    finally:
        resume.leave(run)
    if rank_zero and code == console.GOOD:
        print(json.dumps(session.result(run)) if args.json else run)
    return code
