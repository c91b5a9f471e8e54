#!/usr/bin/env python3
"""Step time of lora_trainer against a bare TRL script: same model, rows, arguments; one run.

    .venv-remote/bin/python tests/bench/training.py [--steps 60] [--rounds 5] [--json] [--smallest]

The two trainers take turns in one process; each round gives one ratio. Goal: median <= 1.02.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "scripts")]
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from kit import console


def bare(settings, run: Path, model, tokenizer, data) -> float:
    """Seconds of training with TRL's own trainer and nothing of the kit's around it."""
    from trl import SFTTrainer

    from training import lora

    trainer = SFTTrainer(
        model,
        args=lora.sft_config(settings, run),
        train_dataset=data["train"],
        processing_class=tokenizer,
        peft_config=lora.lora_config(settings),
    )
    return trainer.train().metrics["train_runtime"]


def ours(settings, run: Path, model, tokenizer, data) -> float:
    """Seconds of the same training as lora_trainer does it, with status, metrics and log."""
    from training import callbacks, lora, session
    from training.run_folder import RunFolder

    writer = RunFolder(run)
    writer.start(settings.model_dump(), {})
    recorders = [callbacks.recorder(writer)]
    data = {"train": data["train"]}
    trainer = lora.build_trainer(settings, run, model, tokenizer, data, recorders)
    session.fit_into_session(trainer)
    seconds = trainer.train().metrics["train_runtime"]
    writer.end("completed")
    return seconds


def compare(steps: int, rounds: int) -> list[dict[str, float]]:
    """Seconds of `ours` and `bare` in each round, on the same model and rows."""
    from config import loader
    from support import tiny

    times: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["TANDEM_WORKDIR"] = name
        tiny.write_rows(work, train=8 * steps)
        tiny.build(work, steps=30)
        from base_model import loading
        from base_model import tokenizer as tokenizers
        from training import lora

        options = tiny.options(
            training__max_steps=steps, training__eval_strategy="'no'",
            training__load_best_model_at_end="false", training__early_stopping_patience="null",
            training__save_steps=10**6, training__logging_steps=10, data__val_file="null",
        )[1::2]  # fmt: skip
        settings = loader.load("training_config.yaml", options)
        tokenizer = tokenizers.configured(settings.model)
        data = lora.datasets(settings, tokenizer)
        for round_ in range(rounds + 1):  # the first warms up
            pair = {}
            order = (bare, ours) if round_ % 2 else (ours, bare)
            for train in order:
                model = loading.load_base(settings.model, settings.quantization)
                run = work / f"{train.__name__}-{round_}"
                pair[train.__name__] = train(settings, run, model, tokenizer, data)
            if round_:
                times.append(pair)
    return times


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--steps", type=int, default=60, help="steps of each training")
    parser.add_argument("--rounds", type=int, default=5, help="pairs to measure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="2 steps, one round: does it run")
    args = parser.parse_args(argv)
    if args.smallest or os.environ.get("BENCH_SMALLEST"):
        args.steps, args.rounds = 2, 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    times = compare(args.steps, args.rounds)
    ratios = [pair["ours"] / pair["bare"] for pair in times]
    result = {"training_step_vs_bare_trl": statistics.median(ratios), "goal": 1.02}
    if args.json:
        print(json.dumps(result | {"ratios": ratios, "seconds": times}))
    else:
        low, high = min(ratios), max(ratios)
        print(
            f"training step, lora_trainer / bare TRL: {statistics.median(ratios):.3f} "
            f"({low:.3f}-{high:.3f}, goal <= 1.02)"
        )
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
