"""What differs between two versions: base, data, configuration, metrics, weights."""

from __future__ import annotations

from typing import Any

from adapters import peft_config, weights
from adapters.version_store import Version

SILENT = ("created", "files", "name", "version", "run", "bump", "gate", "format")


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}"""
    if isinstance(value, dict) and value:
        inner = (flat(v, f"{key}.{k}" if key else str(k)) for k, v in value.items())
        return {k: v for part in inner for k, v in part.items()}
    return {key: value}


def diff(old: Version, new: Version) -> dict[str, Any]:
    """{"card": {key: [old, new]}, "files": {...}, "weights": [...]} of two versions."""
    one, two = old.card, new.card
    a = flat({k: v for k, v in one.items() if k not in SILENT})
    b = flat({k: v for k, v in two.items() if k not in SILENT})
    files = {name: one["files"].get(name) == two["files"].get(name)
             for name in sorted({*one["files"], *two["files"]})}  # fmt: skip
    return {
        "old": old.reference,
        "new": new.reference,
        "card": {k: [a.get(k), b.get(k)] for k in sorted({*a, *b}) if a.get(k) != b.get(k)},
        "files": [name for name, same in files.items() if not same],
        "weights": compare_weights(old, new) if not files[weights.FILE] else [],
    }


def compare_weights(old: Version, new: Version) -> list[dict[str, Any]]:
    """Per module, most changed first: norm of the update B·A of each, and of their difference.

    Norms are Frobenius norms of scale · B @ A, without ever forming that product.
    """
    one, two = weights.inspect(old.folder), weights.inspect(new.folder)
    rows = []
    for module in sorted({*one.modules, *two.modules}):
        a, b = _update(old, one, module), _update(new, two, module)
        square = [_inner(a, a), _inner(b, b)]
        apart = max(0.0, square[0] + square[1] - 2 * _inner(a, b)) if a and b else sum(square)
        rows.append({"module": module, "old": square[0] ** 0.5, "new": square[1] ** 0.5,
                     "difference": apart**0.5})  # fmt: skip
    return sorted(rows, key=lambda row: -row["difference"])


def _update(version: Version, adapter: weights.Adapter, module: str):
    """(scale · B [out, r], A [r, in]) of a module as float64, None where it has no plain LoRA."""
    parts = adapter.modules.get(module, {})
    if "lora_A" not in parts or len(parts["lora_A"].shape) != 2:
        return None
    file, scale = version.folder / weights.FILE, peft_config.scale_of(adapter.config, module)
    a, b = (weights.read(file, parts[part]).astype("f8") for part in ("lora_A", "lora_B"))
    return (b * scale, a) if b.shape[1] == a.shape[0] else None


def _inner(one, two) -> float:
    """<B1 A1, B2 A2> = trace((B2' B1)(A1 A2')); 0.0 where one is missing or shapes differ."""
    if (
        not one
        or not two
        or one[0].shape[0] != two[0].shape[0]
        or one[1].shape[1] != two[1].shape[1]
    ):
        return 0.0
    return float(((two[0].T @ one[0]) * (two[1] @ one[1].T)).sum())
