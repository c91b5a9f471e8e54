"""What reward_model.py and ppo_trainer.py have in common: settings, opt-ins, plan or run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kit import console
from training import processes, trainer_command


def add_options(parser) -> None:
    """The options that both commands take."""
    trainer_command.add_options(parser, "rlhf.yaml")


def settings_of(args, flags: list[str] | None = None) -> Any:
    """The RlhfConfig of --config, --set and flags."""
    from config import loader

    return loader.load(args.config, [*args.overrides, *(flags or [])], kind="rlhf")


def run(kind: str, args, settings, argv: Sequence[str] | None = None) -> int:
    """Plan, or train when both opt-ins are given; the exit code."""
    from rlhf import preference_recipe

    processes.prepare_environment()
    off = "RLHF is disabled (enabled: false in rlhf.yaml; also --set enabled=true)"
    why = trainer_command.missing_opt_in(args, "" if settings.enabled else off)
    if trainer_command.is_rank_zero():
        for line in preference_recipe.DANGERS:
            console.warn(line)
    if why:
        from rlhf import preference_plan

        made = trainer_command.planned(
            args, lambda cards: preference_plan.make(kind, settings, cards)
        )
        return trainer_command.show_plan(made, preference_plan.lines(made), args, why)
    code = trainer_command.relaunched(args, argv)
    return _train(kind, args, settings) if code is None else code


def _train(kind: str, args, settings) -> int:
    from rlhf import preference_plan, preference_recipe
    from training import plan, resume, run_folder

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
        settings = preference_recipe.keep_what_began(settings, began)
    task = preference_plan.resolve(kind, settings)
    plan.check_disk(settings)
    recipe = preference_recipe.PreferenceRecipe(task)
    code, folder = trainer_command.train(args, recipe, (kind,))
    result = preference_recipe.result(folder) if code == console.GOOD else {}
    return trainer_command.print_result(args, code, folder, result)
