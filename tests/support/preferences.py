"""Preference rows and a miniature to learn them on, for tests of RLHF (imported inside tests)."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
from pathlib import Path
from unittest import mock

from support import tiny
from support.data_room import write

LIKED, DISLIKED = ("cold", "dry"), ("warm", "wet")


def pairs(count: int, seed: int = 3) -> list[dict]:
    """Questions with two answers: the liked ones say cold or dry, whatever the city."""
    dice, made = random.Random(seed), []
    for day in range(count):
        question = f"Weather in {dice.choice(tiny.CITIES)} on day {day}?"
        made.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": f"It is {dice.choice(LIKED)}."}],
                "rejected": [{"role": "assistant", "content": f"It is {dice.choice(DISLIKED)}."}],
            }
        )
    return made


@functools.cache
def workspace(base: Path) -> Path:
    """A work folder with rows, a miniature, a trained adapter `sft` and a reward model `reward`."""
    folder = base / "rlhf"
    tiny.write_rows(folder)
    processed = folder / "data" / "processed"
    write(processed / "train_preference.jsonl", pairs(240))
    write(processed / "val_preference.jsonl", pairs(32, seed=4))
    import lora_trainer
    import reward_model

    fast = tiny.options(quantization__load_in_4bit="false", model__dtype="float32")
    with mock.patch.dict(os.environ, TANDEM_WORKDIR=str(folder)):
        tiny.build(folder)
        words = ["--confirm-run", "--run-id", "sft", "--set", "safety.dry_run=false"]
        assert lora_trainer.main([*words, *fast]) == 0
        words = ["--confirm-run", "--run-id", "reward", *BASE, *options()]
        assert reward_model.main(words) == 0
    return folder


BASE = ("--set", "model.model_name_or_path=models/miniature")


SETTINGS = {
    "enabled": "true",
    "model.dtype": "float32",
    "quantization.load_in_4bit": "false",
    "data.max_prompt_length": 64,
    "training.max_steps": 16,
    "training.per_device_train_batch_size": 16,
    "training.per_device_eval_batch_size": 32,
    "training.gradient_accumulation_steps": 1,
    "training.logging_steps": 4,
    "training.eval_steps": 8,
    "training.save_steps": 4,
    "training.save_total_limit": 10,
    "reward.learning_rate": 5e-3,
    "dpo.learning_rate": 5e-3,
    "grpo.learning_rate": 5e-3,
    "rloo.learning_rate": 5e-3,
    "ppo.learning_rate": 5e-3,
    "grpo.max_completion_length": 12,
    "rloo.max_completion_length": 12,
    "ppo.response_length": 12,
    "safety.min_free_disk_gb": 0.1,
}


def options(**changes: object) -> list[str]:
    """--set options: SETTINGS with `changes` ('training__max_steps'=40)."""
    return tiny.set_words(SETTINGS, changes)


def read_status(folder: Path, run: str) -> dict:
    """status.json of a run."""
    return json.loads((folder / "adapters" / "runs" / run / "status.json").read_text())


@contextlib.contextmanager
def stopping_at(step: int):
    """Trainings of this process get SIGTERM once they have written the loss of `step`."""
    from training.run_folder import RunFolder

    written = RunFolder.metrics

    def metrics(self, row):
        written(self, row)
        if row["step"] == step and "loss" in row:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(RunFolder, "metrics", metrics):
        yield


@contextlib.contextmanager
def work(base: Path, monkeypatch):
    """The workspace as TANDEM_WORKDIR; signal handlers as they were afterwards."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    folder = workspace(base)
    monkeypatch.setenv("TANDEM_WORKDIR", str(folder))
    yield folder
    for number, handler in kept.items():
        signal.signal(number, handler)
