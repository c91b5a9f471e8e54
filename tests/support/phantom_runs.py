"""Trainings on stand-in cards: a work folder with a model of holes, and the trainer started on it.

Imported by tests of the training stack alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from base_model import random_weights
from kit import jsonl
from phantom_gpu import phantom
from support import tiny
from support.checkout import ROOT
from support.model_files import tokenizer_json, write_tokenizer

# As large as Qwen2.5-0.5B, with its tied embeddings and grouped keys.
QWEN = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "tie_word_embeddings": True, "dtype": "bfloat16",
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip
SETTINGS = {
    "model.model_name_or_path": "models/random", "training.max_length": 512,
    "training.max_steps": 4, "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1, "training.logging_steps": 1,
    "training.eval_steps": 2, "training.save_steps": 2, "safety.min_free_disk_gb": 0.1,
    "safety.dry_run": "false",
}  # fmt: skip


def make_work(folder: Path, config: dict[str, Any] = QWEN, tokens: int = 600) -> Path:
    """A work folder with the model of holes and rows of `tokens` tokens, which are cut."""
    text = tokenizer_json(("<s>", "</s>", "<pad>"))  # ppo wants a pad token of its own
    source = write_tokenizer(folder / "source", text, pad_token="<pad>")
    (source / "config.json").write_text(json.dumps(config))
    random_weights.write(source, folder / "models" / "random")
    row = {"messages": [{"role": "user", "content": "Why?"},
                        {"role": "assistant", "content": "a" * tokens}]}  # fmt: skip
    data = folder / "data" / "processed"
    data.mkdir(parents=True)
    for name, count in (("train", 64), ("val", 8)):
        jsonl.write(data / f"{name}_sft.jsonl", [row] * count)
    return folder


def options(**changes: object) -> list[str]:
    """--set options: SETTINGS with `changes` ('training__max_steps'=40)."""
    return tiny.set_words(SETTINGS, changes)


def start(
    work: Path, script: str, *words: str, card: dict[str, Any] | None = None
) -> subprocess.Popen:
    """A command of the kit on stand-in cards; `card` is of phantom.environment."""
    env = os.environ | phantom.environment(**(card or {})) | {"TANDEM_WORKDIR": str(work)}
    command = [sys.executable, str(ROOT / "scripts" / script), *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True
    )


def train(
    work: Path, run: str, *words: str, card: dict[str, Any] | None = None, **changes: object
) -> tuple[int, str, Path]:
    """(exit code, stderr, run folder) of lora_trainer.py on stand-in cards."""
    named = ("--confirm-run", "--run-id", run, *options(**changes), *words)
    process = start(work, "lora_trainer.py", *named, card=card)
    _, err = process.communicate(timeout=400)
    return process.returncode, err, work / "adapters" / "runs" / run


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())
