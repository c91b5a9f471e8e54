"""A miniature model and its rows, for tests of the training room (imported inside tests)."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from config import options as config_options
from kit import jsonl

CITIES = ("Berlin", "Paris", "Oslo", "Rome", "Lima", "Cairo", "Quito", "Tokyo")
WEATHER = ("cold", "warm", "wet", "dry")
# Like Mistral v0.3's: tools are written before the last question, so earlier turns change.
LATE_TOOLS_TEMPLATE = (
    "{{- bos_token }}{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS]' }}{%- endif %}"
    "{{- '[INST] ' + m['content'] + '[/INST]' }}"
    "{%- elif m['role'] == 'assistant' %}{{- m['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
)


_LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEAR = {"llama": _LLAMA, "mistral": _LLAMA, "mamba": ["in_proj", "x_proj"]}


def rows(count: int, seed: int = 1) -> list[dict]:
    """Questions whose answer depends on the city alone: something that LoRA can learn."""
    dice = random.Random(seed)
    made = []
    for day in range(count):
        city = dice.randrange(len(CITIES))
        made.append(
            {
                "messages": [
                    {"role": "user", "content": f"Weather in {CITIES[city]} on day {day}?"},
                    {"role": "assistant", "content": f"It is {WEATHER[city % 4]}."},
                ],
                "source": "test",
            }
        )
    return made


def write_rows(folder: Path, train: int = 240, val: int = 32) -> None:
    """data/processed/train_sft.jsonl and val_sft.jsonl below `folder`."""
    out = folder / "data" / "processed"
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows(train)), ("val", rows(val, seed=2))):
        jsonl.write(out / f"{name}_sft.jsonl", part)


def build(folder: Path, family: str = "llama", steps: int = 120) -> Path:
    """A trained miniature at `folder`/models/miniature: a copy, each is trained once a session."""
    out = folder / "models" / "miniature"
    return Path(shutil.copytree(_trained(family, steps), out, dirs_exist_ok=True))


@functools.cache
def _trained(family: str, steps: int) -> Path:
    from base_model import miniature
    from training import encoding

    place = tempfile.mkdtemp(prefix="tandem-tiny-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    conversations = [encoding.conversation(row) for row in rows(240)]
    miniature.build(conversations, family, Path(place) / "model", steps, seed=42)
    return Path(place) / "model"


SETTINGS = {
    "model.model_name_or_path": "models/miniature",
    "training.max_length": 128,
    "training.max_steps": 20,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-2,
    "training.logging_steps": 5,
    "training.eval_steps": 5,
    "training.save_steps": 5,
    "training.save_total_limit": 10,
    "safety.min_free_disk_gb": 0.1,
}


def options(**changes: object) -> list[str]:
    """--set options of the trainer: SETTINGS with `changes` ('training__max_steps'=40)."""
    return set_words(SETTINGS, changes)


def set_words(settings: dict[str, Any], changes: dict[str, Any]) -> list[str]:
    """`--set key=value` of each setting; in a key of `changes`, '__' stands for the dot."""
    values = settings | {key.replace("__", "."): value for key, value in changes.items()}
    return config_options.set_words(values)
