"""run.json: the inputs of a run by their hashes, and the GPU memory that it took."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model import base_checks, chat_template, identity, loading, locate, tokenizer
from kit import paths, publish
from training import gpu_memory, plan


def collect(recipe, world_size: int) -> dict[str, Any]:
    """The facts of a run that begins now, as run.json keeps them."""
    settings = recipe.settings
    base = locate.find(settings.model.model_name_or_path, settings.model.model_revision)
    facts = {
        "base_model": settings.model.model_name_or_path,
        "base_revision": base and base_checks.commit(base),
        "base_identity": identity.identity(base) if base else {},
        "train_sha256": publish.sha256(plan.data_file(settings.data.train_file)),
        "val_sha256": hash_if_there(plan.data_file(settings.data.val_file)),
        "data_manifest_sha256": manifest_of(plan.data_file(settings.data.train_file)),
        "environment_lock_sha256": hash_if_there(paths.ROOT / "requirements-remote.txt"),
        "tokenizer_sha256": base and identity.tokenizer(base),
        "special_tokens_sha256": tokenizer.special_tokens_sha256(recipe.tokenizer),
        "chat_template_sha256": chat_template.sha256(recipe.tokenizer.chat_template),
        "seed": settings.training.seed,
        "world_size": world_size,
        "device": loading.device(),
        "data": recipe.counts(),
    }
    return facts | recipe.inputs()


def manifest_of(train_file: Path) -> str | None:
    """The SHA-256 of the manifest beside the rows; None where it describes other rows."""
    manifest = train_file.parent / "manifest.json"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        described = files[train_file.name]["sha256"] == publish.sha256(train_file)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return publish.sha256(manifest) if described else None


def hash_if_there(file: Path | None) -> str | None:
    """A file's SHA-256; None where there is none."""
    return publish.sha256(file) if file and file.is_file() else None


def add_memory(run: Path, memory_case: Callable[[], Any]) -> str:
    """Write the measured peak and the estimate into run.json; both in words. '' without CUDA.

    A run that was stopped and resumed keeps the highest peak of its processes.
    """
    measured = gpu_memory.peak()
    if measured is None:
        return ""
    estimated = memory_case().estimate.total
    file = run / "run.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    before = facts.get("memory") or {}
    for key in ("peak_allocated", "peak_reserved"):
        earlier = before.get(key)
        measured[key] = max(measured[key], earlier if isinstance(earlier, int) else 0)
    publish.json_file(file, facts | {"memory": measured | {"estimated": estimated}})
    return gpu_memory.beside_estimate(measured, estimated)
