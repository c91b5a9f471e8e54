#!/usr/bin/env python3
"""Train a LoRA or QLoRA adapter on train_sft.jsonl. Plans unless two opt-ins are given.

    python scripts/lora_trainer.py                          plan: data, steps, memory, gaps
    python scripts/lora_trainer.py --confirm-run            train, if the config says dry_run: false
    python scripts/lora_trainer.py --confirm-run --resume   continue with the latest unfinished run
    python scripts/lora_trainer.py --estimate --gpu "RTX 4090"      memory and time on that card
    python scripts/lora_trainer.py --confirm-run --gpus all         one process a GPU (torchrun)

A run is adapters/runs/<run-id>/: config.yaml, status.json (with heartbeat), metrics.jsonl, log.txt,
checkpoints/, final/ (a PEFT folder). The run's folder is the one result line on stdout.

Exit codes: 0 good, 1 something is missing or the training failed, 2 called or configured wrongly,
128 + signal stopped by INT, TERM or USR2 (a checkpoint is kept: --resume continues).
"""

from __future__ import annotations

from config import loader
from kit import console
from kit.moving_line import MovingLine
from training import processes, trainer_command

OFF = "the config says dry_run: true (safety.dry_run; also --set safety.dry_run=false)"


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    trainer_command.add_options(parser, "training_config.yaml")
    parser.add_argument("--estimate", action="store_true", help="print memory and time, and end")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    settings = loader.load(args.config, args.overrides, kind="training_config")
    processes.prepare_environment()
    why = trainer_command.missing_opt_in(args, OFF if settings.safety.dry_run else "")
    if args.estimate:
        why = "--estimate was given"
    if why:
        from training import plan

        made = trainer_command.planned(args, lambda cards: plan.make(settings, cards=cards))
        closing = "An estimate; nothing was trained." if args.estimate else ""
        return trainer_command.show_plan(made, plan.lines(made), args, why, closing)
    code = trainer_command.relaunched(args, argv)
    return train(args, settings) if code is None else code


def train(args, settings) -> int:
    """Train in this process; the exit code."""
    from training import lora, plan

    with MovingLine(trainer_command.PLANNING):
        plan.check(settings)
    code, run = trainer_command.train(args, lora.SupervisedRecipe(settings), ("lora",))
    result = {"run": str(run), "state": "completed"}
    return trainer_command.print_result(args, code, run, result)


if __name__ == "__main__":
    console.run(main)
