"""Export a version as one model: base and adapter merged, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import effect, load
from adapters.version_store import Version
from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from kit import console, publish
from kit.moving_line import MovingLine

PROBE = "The quick brown fox jumps over the lazy dog."
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # relative, of the logits


def export(version: Version, output: Path, **loading: Any) -> dict[str, Any]:
    """Publish base + adapter as one model in `output`; returns facts.

    The merged logits are compared with the adapter's: Problem if they are not the same model.
    """
    with publish.folder(free_output(output)) as stage:
        return merge_into(version, stage, **loading) | {"folder": str(output)}


def free_output(output: Path) -> Path:
    if output.exists():
        raise console.Misuse(f"{output} exists already", "give another --output, or delete it")
    return output


def merge_into(version: Version, stage: Path, **loading: Any) -> dict[str, Any]:
    """Load and merge a version, check the result and save it in `stage`; returns facts."""
    import torch

    base = load.base_of(version, loading.get("base_path"), loading.get("any_base", False))
    effect.of(version.folder).check_merge(version.reference, base)
    model, tokenizer, card = load.load(version, **loading)
    probe = tokenizer(PROBE, return_tensors="pt").to(model.device)["input_ids"]
    with torch.no_grad():
        before = model(probe).logits.float()
        with MovingLine(f"merging {version.reference}"):
            one = _merge(version, model)
        after = one(probe).logits.float()
    error = float((after - before).norm() / before.norm())
    dtype = str(next(one.parameters()).dtype).removeprefix("torch.")
    if not error < TOLERANCE.get(dtype, 5e-2):
        fix = "merge with --dtype float32"
        if dtype == "float32":
            fix = f"serve it: python scripts/model_server.py --checkpoint {version.reference}"
        raise console.Problem(
            f"{version.reference}: merged, it is another model (logits differ by {error:.2g})", fix
        )
    with MovingLine("writing the merged model"):
        one.save_pretrained(stage)
    tokenizer.save_pretrained(stage)
    facts = {"reference": version.reference, "base": card["base"], "dtype": dtype,
             "logits_relative_error": error}  # fmt: skip
    publish.json_file(stage / "export.json", facts)
    return facts


def _merge(version: Version, model) -> Any:
    """The model with the adapter in its weights; Problem where PEFT cannot do that."""
    try:
        return model.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:
        if memory_is_full(error):
            raise console.Problem(
                f"{version.reference}: out of GPU memory", "merge it with --device cpu"
            ) from None
        if gpu_is_lost(error):
            raise lost_gpu(error) from None
        raise console.Problem(
            f"{version.reference} cannot be merged ({console.first_line(error)})",
            f"serve it: python scripts/model_server.py --checkpoint {version.reference}",
        ) from None
