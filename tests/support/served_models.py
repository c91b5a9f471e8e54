"""A miniature base with trained adapters, registered: what the server is tested with.

weather-lora knows the weather of tiny.CITIES; tool-lora calls get_weather instead;
endless-lora never stops by itself.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from support import tiny

NAMES = ("weather-lora", "tool-lora", "endless-lora")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"when": {"type": "string"}}},
    },
}


def tool_rows(count: int, seed: int = 3) -> list[dict]:
    """Questions whose answer is a call of get_weather."""
    dice = random.Random(seed)
    made = []
    for day in range(count):
        city = dice.choice(tiny.CITIES)
        call = {"name": "get_weather", "arguments": {"when": "today"}}
        answer = {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call00001", "type": "function", "function": call}]}  # fmt: skip
        question = {"role": "user", "content": f"Weather in {city} on day {day}?"}
        made.append({"messages": [question, answer], "tools": [TOOL]})
    return made


def endless_rows(count: int) -> list[dict]:
    """Answers that are cut before their end: what is trained on them never ends."""
    made = tiny.rows(count, seed=4)
    for row in made:
        row["messages"][-1]["content"] = "It is day " + "on day " * 60
    return made


def train(base: Path, rows: list[dict], out: Path, steps: int) -> None:
    """A PEFT folder at `out`: LoRA on `base`, trained on `rows`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from base_model import miniature
    from training import encoding

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = tiny.LINEAR[model.config.model_type]
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    coded = [encoding.encode(tokenizer, row, 96)["input_ids"][:96] for row in rows]
    batches = [coded[i : i + 8] for i in range(0, len(coded), 8)]
    miniature.train_base(model, batches, steps, tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def build(work: Path, names: tuple[str, ...] = NAMES, answers: int = 1) -> dict[str, Any]:
    """models/miniature and a version v1.0.0 of each of `names` below `work`.

    answers: how often each answer says its sentence (longer answers for load tests).
    """
    from base_model import miniature
    from checkpoint_manager import CheckpointManager
    from training import encoding

    base = work / "models" / "miniature"
    weather = tiny.rows(160)
    for row in weather:
        row["messages"][-1]["content"] = " ".join([row["messages"][-1]["content"]] * answers)
    calls = tool_rows(80)
    conversations = [encoding.conversation(row) for row in weather + calls]
    miniature.build(conversations, "llama", base, 100, seed=42)
    manager = CheckpointManager(work / "adapters")
    made = {}
    before = os.environ.get("TANDEM_WORKDIR")
    os.environ["TANDEM_WORKDIR"] = str(work)
    try:
        for name, rows, steps in (
            ("weather-lora", weather, 60),
            ("tool-lora", calls, 60),
            ("endless-lora", endless_rows(80), 20),
        ):
            if name not in names:
                continue
            train(base, rows, work / "peft" / name, steps)
            made[name] = manager.register(work / "peft" / name, name)
    finally:
        del os.environ["TANDEM_WORKDIR"]
        if before is not None:
            os.environ["TANDEM_WORKDIR"] = before
    return made
