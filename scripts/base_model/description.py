"""What a base model's files say about it: read once here, asked by every command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from base_model import locate
from kit import console

# model_type -> the linear layers that LoRA may adapt there (what PEFT finds in the architecture)
TARGET_MODULES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "mistral": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "mamba": ["in_proj", "x_proj"],
}
# model_type -> the other modules there, which lora.modules_to_save may train as a whole
WHOLE_MODULES = {
    "llama": ["embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"],
    "mistral": ["embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"],
    "mamba": ["embeddings", "lm_head", "norm", "norm_f"],
}


def config(model: str | os.PathLike, revision: str | None = None) -> dict[str, Any]:
    """config.json of a model on this machine. Problem where there is none."""
    folder = model if isinstance(model, Path) else locate.require(str(model), revision)
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except (ValueError, RecursionError):
        pass
    raise console.Problem(f"{file}: not JSON", "download the model again") from None


def check_target_modules(model_type: str, wanted: list[str] | str) -> None:
    """Misuse with the right names when a target module does not exist in this architecture."""
    known = TARGET_MODULES.get(model_type)
    if known is None:
        return
    if wanted == "all-linear":
        if model_type == "mamba":
            raise console.Misuse(
                "lora.target_modules: all-linear does not work for Mamba",
                f"set it to [{', '.join(known)}]",
            )
        return
    _refuse_unknown("target_modules", model_type, wanted, [*known, "lm_head"])


def check_modules(model_type: str, lora) -> None:
    """Misuse where a `lora` section names modules that this architecture has not."""
    check_target_modules(model_type, lora.target_modules)
    if model_type in WHOLE_MODULES:
        known = [*WHOLE_MODULES[model_type], "score"]
        _refuse_unknown("modules_to_save", model_type, lora.modules_to_save or [], known)


def _refuse_unknown(key: str, model_type: str, wanted: list[str], known: list[str]) -> None:
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise console.Misuse(
            f"lora.{key}: a {model_type} model has no {', '.join(wrong)} that can be trained",
            f"choose from [{', '.join(known)}]",
        )
