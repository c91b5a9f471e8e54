"""Load a version: base and adapter as one model. Needs the training stack (.venv-remote)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapters import effect, verification, weights
from adapters.version_store import Version
from base_model import identity, loading, locate, tokenizer
from kit import console


def base_of(
    version: Version, given: str | os.PathLike | None = None, any_base: bool = False
) -> Path:
    """The folder of the version's base: `given`, or the place of its card's base on this machine.

    Difference if another model is there; with `any_base` that is a warning.
    """
    wanted = version.card["base"]
    folder = locate.of_card(wanted, given)
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
    facts = version.card
    verification.check_files(version.folder, facts)
    adapter = effect.of(verification.check_contents(version.folder, facts))
    adapter.check_load(version.reference)
    folder = base_of(version, base_path, any_base)
    import torch

    try:
        words = tokenizer.of_adapter(version.folder, folder)
        model = _base(version, folder, device, dtype)
        effect.fit_embedding(model, [(adapter, version.folder, words)])
        model = loading.attach(model, version.folder)
    except torch.OutOfMemoryError:
        fix = "load it with --device cpu, or on a larger GPU"
        raise console.Problem(f"{version.reference}: out of GPU memory", fix) from None
    except console.Problem as problem:
        raise console.Problem(
            f"{version.reference} cannot be loaded: {problem.text}", problem.remedy
        ) from None
    return model.eval(), words, facts


def load_base(
    version: Version,
    base_path: str | os.PathLike | None = None,
    device: str | None = None,
    dtype: str | None = None,
    any_base: bool = False,
) -> Any:
    """The untouched base of a version, by the same options as `load`."""
    return _base(version, base_of(version, base_path, any_base), device, dtype).eval()


def _base(version: Version, folder: Path, device: str | None, dtype: str | None) -> Any:
    name = version.card["base"]["name"]
    fix = f"python scripts/verify_model.py {name} --hash looks for a broken file"
    return loading.load(folder, dtype=dtype, device_map=device or loading.device(), remedy=fix)


def describe(model) -> dict[str, Any]:
    """{"parameters", "adapter_parameters", "device", "dtype"} of a loaded model."""
    lora = sum(
        p.numel()
        for n, p in model.named_parameters()
        if any(part in n for part in ("lora_", "modules_to_save", "trainable_tokens"))
    )
    first = next(model.parameters())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "adapter_parameters": lora,
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
    }
