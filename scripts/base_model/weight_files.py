"""Index, shards and headers of a model's weights, held against each other; no tensor is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from base_model import safetensors_header
from base_model.identity import INDEX
from base_model.model_folder import ModelFolder
from base_model.safetensors_header import Broken
from kit import console
from kit.report import Check

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def checks(model: ModelFolder) -> list[Check]:
    """Index and shards, or the single file, held against each other."""
    index, single = model.folder / INDEX, model.folder / "model.safetensors"
    if index.is_file() and not safetensors_header.is_pointer(index):
        try:
            shards, total = _read_index(index)
        except Broken as error:
            return [Check(INDEX, "fail", str(error), model.afresh(INDEX))]
        return _sharded(model, shards, total)
    if index.is_file():
        return []  # the pointer is reported already
    if single.is_file():
        tensors: Tensors = {}
        broken = _header(model, "model.safetensors", tensors)
        return broken or [Check("weights", "ok", f"model.safetensors, {len(tensors)} tensors")]
    shards = sorted(model.folder.glob("model-*-of-*.safetensors"))
    if shards:
        return [Check(INDEX, "fail", f"not there, {len(shards)} shards are", model.again)]
    if list(model.folder.glob("*.bin")) or list(model.folder.glob("*.gguf")):
        text = "weights as .bin or .gguf only: Tandem trains from safetensors"
        return [Check("weights", "fail", text, "take a revision of the model in safetensors")]
    return [Check("weights", "fail", "no model.safetensors and no index", model.again)]


def _read_index(path: Path) -> tuple[dict[str, list[str]], int | None]:
    """({shard: its tensors}, total bytes or None). Raises Broken."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        pairs = list(index["weight_map"].items())
        total = (index.get("metadata") or {}).get("total_size")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise Broken("not an index: JSON with a weight_map is expected") from None
    shards: dict[str, list[str]] = {}
    for tensor, shard in pairs:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w][\w.-]*\.safetensors", shard):
            raise Broken(f"{tensor} lies in {str(shard)[:40]!r}, which is no shard's name")
        shards.setdefault(shard, []).append(tensor)
    if not shards:
        raise Broken("its weight_map is empty")
    return shards, total if isinstance(total, int) else None


def _sharded(model: ModelFolder, shards, total) -> list[Check]:
    tensors: Tensors = {}
    wrong: list[Check] = []
    missing: list[str] = []
    for shard in sorted(shards):
        path, inside = model.folder / shard, {}
        if not path.is_file():
            missing += [] if path.is_symlink() else [shard]
            continue
        if safetensors_header.is_pointer(path):
            continue  # reported as one
        broken = _header(model, shard, inside)
        if not broken and set(inside) != set(shards[shard]):
            broken = [_differs(model, shard, set(inside), set(shards[shard]))]
        wrong += broken
        tensors |= inside
    wrong = missing_files(model, missing, "named by the index") + wrong
    numbered = [re.fullmatch(r"model-\d+-of-(\d+)\.safetensors", s) for s in shards]
    if all(numbered) and {int(n[1]) for n in numbered} != {len(shards)}:  # type: ignore[index]
        text = f"names {len(shards)} shards, their names say {numbered[0][1]}"  # type: ignore[index]
        wrong.append(Check(INDEX, "fail", text, model.afresh(INDEX)))
    tensor_bytes = sum(_bytes(*t) for t in tensors.values())
    if not wrong and total is not None and tensor_bytes != total:
        text = f"total_size {total:,}, the tensors have {tensor_bytes:,} bytes"
        wrong.append(Check(INDEX, "warn", text, f"{model.afresh(INDEX)} (or tied weights)"))
    size = console.size(tensor_bytes)
    text = f"{len(shards)} shards, {len(tensors)} tensors, {size}: as the index says"
    return wrong or [Check("weights", "ok", text)]


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count * safetensors_header.BITS[dtype] // 8


def _header(model: ModelFolder, file: str, tensors: dict) -> list[Check]:
    path = model.folder / file
    try:
        tensors |= safetensors_header.read(path)
    except Broken as error:
        return [Check(file, "fail", str(error), model.afresh(file))]
    return []


def _differs(model: ModelFolder, shard: str, inside: set[str], named: set[str]) -> Check:
    missing, more = sorted(named - inside), sorted(inside - named)
    first = f"{missing[0]} is not in it" if missing else f"{more[0]} is not in the index"
    text = f"holds other tensors than the index says: {first} ({len(missing) + len(more)} differ)"
    return Check(shard, "fail", text, f"{model.afresh(shard)} (shard and index of two revisions?)")


def missing_files(model: ModelFolder, names: list[str], why: str) -> list[Check]:
    if not names:
        return []
    more = f" nor {len(names) - 1} more" if len(names) > 1 else ""
    text = f"not there{more}, {why}"
    return [Check(names[0], "fail", text, model.again)]
