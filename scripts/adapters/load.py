"""Base + adapter as a model that answers. Needs the training stack (.venv-remote)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapters import verification, weights
from adapters.version_store import Version
from base_model import identity
from kit import console


def base_of(
    version: Version, given: str | os.PathLike | None = None, any_base: bool = False
) -> Path:
    """The folder of the version's base: `given`, or where its card's name lies on this machine.

    Difference if another model lies there; with `any_base` that is a warning.
    """
    wanted = version.card["base"]
    folder = identity.locate(wanted, given)
    if folder is None:
        raise console.Problem(
            f"the base model of {version.reference} is not at {wanted['name']}",
            "download it (docs/MODEL_DOWNLOAD.md), or say where it lies with --base PATH",
        )
    try:
        identity.check(wanted, folder, version.reference)
    except weights.Difference as difference:
        if not any_base:
            raise
        console.warn(f"{difference.file}: {difference.found}; loaded all the same (--any-base)")
    return folder


def load(
    version: Version,
    base_path: str | os.PathLike | None = None,
    device: str | None = None,
    dtype: str | None = None,
    any_base: bool = False,
) -> tuple[Any, Any, dict[str, Any]]:
    """(PeftModel, tokenizer, card) of a version; its files and base are checked first.

    `device`: cuda, mps, cpu; default the best here. `dtype`: default that of the base's files.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded by itself
    facts = version.card
    verification.check_files(version.folder, facts)
    verification.check_contents(version.folder, facts)
    folder = base_of(version, base_path, any_base)
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # a CPU without AMX says so
    import torch

    try:
        model, tokenizer = _load(version.folder, folder, device, dtype)
    except torch.OutOfMemoryError:
        fix = "load it with --device cpu, or on a larger GPU"
        raise console.Problem(f"{version.reference}: out of GPU memory", fix) from None
    except (OSError, ValueError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        fix = f"python scripts/verify_model.py {facts['base']['name']} --hash finds a broken file"
        raise console.Problem(f"{version.reference} cannot be loaded ({line})", fix) from None
    return model, tokenizer, facts


def _load(adapter: Path, base_folder: Path, device: str | None, dtype: str | None):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(adapter if own else base_folder)
    model = AutoModelForCausalLM.from_pretrained(
        base_folder,
        dtype=getattr(torch, dtype) if dtype else "auto",
        device_map=device or best_device(),
    )
    if own and len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))  # as PEFT's AutoPeftModel does
    return PeftModel.from_pretrained(model, adapter).eval(), tokenizer


def best_device() -> str:
    """'cuda', 'mps' or 'cpu': the best that torch sees here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe(model) -> dict[str, Any]:
    """{"parameters", "adapter_parameters", "device", "dtype"} of a loaded model."""
    lora = sum(
        p.numel() for n, p in model.named_parameters() if "lora_" in n or "modules_to_save" in n
    )
    first = next(model.parameters())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "adapter_parameters": lora,
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
    }
