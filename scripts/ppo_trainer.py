#!/usr/bin/env python3
"""Train an adapter on preferences or rewards: dpo, grpo, rloo or ppo. Off by default.

    python scripts/ppo_trainer.py --adapter RUN                    plan: data, steps, memory, gaps
    python scripts/ppo_trainer.py --adapter mapper-lora@v1.0.0 --confirm-run
    python scripts/ppo_trainer.py --adapter RUN --algorithm rloo --reward-model RUN --confirm-run
    python scripts/ppo_trainer.py --confirm-run --resume           continue (not ppo)
    python scripts/ppo_trainer.py --adapter RUN --confirm-run --gpus all   one process a GPU

Trains only if configs/rlhf.yaml says enabled: true (or --set enabled=true) and --confirm-run is
given. The adapter it starts from stays as it is, and is the reference that KL is measured to.
The result is a run like the trainer's, which checkpoint_manager.py registers; its objective on the
validation rows is measured before and after. The run's folder is the one result line on stdout.

Exit codes: 0 good, 1 bad rows, something is missing or the training failed, 2 called or configured
wrongly, 128 + signal stopped (a checkpoint is kept).
"""

from __future__ import annotations

import json

from kit import console

FLAGS = {  # flag -> where rlhf.yaml has it
    "algorithm": "algorithm",
    "adapter": "sft_model_path",
    "reward_model": "reward_model_path",
}


def parse(argv: list[str] | None):
    from rlhf import command

    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--algorithm", choices=("dpo", "grpo", "rloo", "ppo"))
    parser.add_argument("--adapter", help="where to start: a run, or name@version")
    parser.add_argument("--reward-model", metavar="RUN", help="a run of reward_model.py, or latest")
    command.add_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    from rlhf import command

    args = parse(argv)
    flags = [f"{key}={json.dumps(getattr(args, name))}"
             for name, key in FLAGS.items() if getattr(args, name) is not None]  # fmt: skip
    settings = command.settings_of(args, flags)
    return command.run(settings.algorithm, args, settings, argv)


if __name__ == "__main__":
    console.run(main)
