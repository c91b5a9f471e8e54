"""What lora_trainer.py, reward_model.py and ppo_trainer.py share: options, opt-ins, plan or run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from base_model import gpu_driver
from config import options
from kit import console, report
from kit.moving_line import MovingLine
from training import processes

PLANNING = "reading the model's files and the rows"


def add_options(parser, config: str) -> None:
    """The options that every trainer takes. config: the name of its default configuration."""
    options.add_config(parser, config)
    parser.add_argument(
        "--dry-run", action="store_true", help="plan only, whatever the config says"
    )
    parser.add_argument(
        "--confirm-run", action="store_true", help="the second yes that training needs"
    )
    parser.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="a run id; default latest"
    )
    parser.add_argument(
        "--run-id", help="the new run's name; default: date, time and four hex digits"
    )
    parser.add_argument(
        "--gpus",
        metavar="N",
        help="processes, one a GPU, under torchrun: all, auto (all of several), or a number",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="plan for this card: 'RTX 4090', 'A100 80 GB', '24 GB'"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def missing_opt_in(args, switched_off: str) -> str:
    """Which of the two opt-ins is missing, '' when the run may start.

    switched_off: why the configuration alone forbids it, '' where it does not.
    """
    if args.dry_run:
        return "--dry-run was given"
    return switched_off or ("" if args.confirm_run else "--confirm-run was not given")


def planned(args, make: Callable[[list[Any]], Any]) -> Any:
    """The plan that `make` makes for the cards of --gpu, or for those of a machine that trains.

    What is wrong with those cards is among its checks.
    """
    from training import cards, memory_checks

    with MovingLine(PLANNING):
        there, wrong = ([cards.named(args.gpu)], []) if args.gpu else memory_checks.cards_here()
        made = make(there)
    made.checks += wrong
    return made


def show_plan(made, lines: Sequence[str], args, why: str, closing: str = "") -> int:
    """Print a plan and its checks; returns 1 where something is missing."""
    if args.json:
        return report.report(made.checks, as_json=True, plan=made.facts, dry_run=why)
    print("\n".join(lines))
    code = report.report(made.checks)
    print(closing or f"Nothing was trained: {why}.")
    return code


def relaunched(args, argv: Sequence[str] | None) -> int | None:
    """The exit code of the same command under torchrun; None where this process trains itself."""
    processes.refuse_half_a_launch()
    gpu_driver.require_answer()
    if args.gpus == "auto" and processes.visible_gpus() < 2:
        args.gpus = None  # nothing to share: this process trains
    if not args.gpus or processes.launched():
        processes.keep_one_gpu()
        return None
    words = list(sys.argv[1:] if argv is None else argv)
    return processes.launch(
        "all" if args.gpus == "auto" else args.gpus, sys.argv[0], without_gpus(words)
    )


def without_gpus(words: Sequence[str]) -> list[str]:
    """A command line less its --gpus option."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--gpus":
            skip = True
        elif not word.startswith("--gpus="):
            kept.append(word)
    return kept


def is_rank_zero() -> bool:
    """Whether this process names the run and prints."""
    return not processes.launched() or os.environ["RANK"] == "0"


def train(args, recipe, kinds: tuple[str, ...]) -> tuple[int, Any]:
    """Choose the run and train it: (exit code, run folder)."""
    from training import resume, run_lock, session

    run, checkpoint = None, None
    if is_rank_zero():
        run, checkpoint = resume.choose_run(args.resume, args.run_id, recipe.settings, kinds)
    try:
        with MovingLine("starting") if is_rank_zero() else contextlib.nullcontext():
            return session.train(recipe, run, checkpoint)
    except console.Problem as problem:
        processes.note_end(problem.code, str(problem))
        raise
    finally:
        run_lock.release_unused(run)


def print_result(args, code: int, run, result: dict[str, Any]) -> int:
    """The one result on stdout of a completed run; returns the exit code."""
    if is_rank_zero() and code == console.GOOD:
        text = json.dumps(result) if args.json else str(run)
        if not processes.note_end(code, result=text):
            print(text)
    if code > 128 and processes.note_end(code):
        return console.GOOD  # the launcher gives the noted code
    return code
