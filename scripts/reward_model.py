#!/usr/bin/env python3
"""Train a reward model on preference rows. Off by default; plans unless two opt-ins are given.

    python scripts/reward_model.py                     plan: pairs, steps, memory, gaps
    python scripts/reward_model.py --confirm-run       train, if rlhf.yaml says enabled: true
    python scripts/reward_model.py --confirm-run --resume          continue with an unfinished one
    python scripts/reward_model.py --set model.model_name_or_path=models/Llama-3.1-8B-Instruct

Rows are {"prompt", "chosen", "rejected"} (texts or messages), as data_prep.py writes them to
data/processed/train_preference.jsonl. The result is a run like the trainer's, of the kind
`reward`: a LoRA adapter with a head of one number. Its accuracy on the validation pairs is
measured before and after. The run's folder is the one result line on stdout.

Exit codes: 0 good, 1 bad rows, something is missing or the training failed, 2 called or configured
wrongly, 128 + signal stopped (a checkpoint is kept: --resume continues).
"""

from __future__ import annotations

from kit import console


def parse(argv: list[str] | None):
    from rlhf import command

    parser = console.ArgumentParser(__doc__)
    command.add_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    from rlhf import command

    args = parse(argv)
    return command.run("reward", args, command.settings_of(args), argv)


if __name__ == "__main__":
    console.run(main)
