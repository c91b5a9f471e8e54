"""Reads an adapter's safetensors without torch and holds it against adapter_config.json.

A PEFT folder of a LoRA holds, for each adapted module of the base, lora_A [r, in] and lora_B
[out, r]; the update of its weight is lora_alpha / r x B A.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from base_model import safetensors_header
from base_model.identity import Difference

FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# base_model.model.<module>.lora_A.weight; embeddings have no .weight; DoRA adds a vector
_LORA = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.weight|\.bias)?"
)


AGAIN = "save the adapter again with PEFT's save_pretrained, or fetch it again"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One entry of a header; `start` and `end` are byte positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header(path: Path) -> dict[str, Tensor]:
    """{tensor name: Tensor} of a safetensors file; Difference if it is not one, or is cut short."""
    try:
        safetensors_header.read(path)  # every length, shape and offset is checked there
    except safetensors_header.Broken as broken:
        raise Difference(path.name, str(broken), AGAIN) from None
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        entries = json.loads(f.read(length))
    entries.pop("__metadata__", None)
    found = {}
    for name, entry in entries.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), start, end)
    return found


def read(path: Path, tensor: Tensor):
    """The tensor's values as a numpy array; bfloat16 and float16 come as float32."""
    import numpy as np

    raw = np.fromfile(path, dtype=np.uint8, count=tensor.end - tensor.start, offset=tensor.start)
    if tensor.dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4").reshape(tensor.shape)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    if tensor.dtype not in kinds:
        raise Difference(path.name, f"LoRA weights of type {tensor.dtype}", AGAIN)
    values = raw.view(kinds[tensor.dtype]).reshape(tensor.shape)
    return values.astype("<f4") if tensor.dtype == "F16" else values


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a PEFT folder; Difference where it is missing or no LoRA."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except FileNotFoundError:
        raise Difference(CONFIG, "missing", AGAIN) from None
    except (ValueError, KeyError, TypeError):
        raise Difference(CONFIG, "not a PEFT configuration", AGAIN) from None
    if kind != "LORA":
        raise Difference(CONFIG, f"peft_type {kind} instead of LORA", "train with lora_trainer.py")
    if not isinstance(config.get("r"), int) or config["r"] < 1:
        raise Difference(CONFIG, f"rank r is {config.get('r')!r}", AGAIN)
    return config


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What an adapter's tensors are: facts for the card."""

    modules: dict[str, dict[str, Tensor]]  # module of the base -> part (lora_A …) -> Tensor
    full: dict[str, Tensor]  # tensors saved whole: modules_to_save, resized embeddings
    parameters: int

    @property
    def rank(self) -> int:
        """The highest rank of any module: what vLLM's --max-lora-rank must allow."""
        return max(
            parts[a].shape[0] for parts in self.modules.values() for a in parts if a[-2:] == "_A"
        )


def inspect(folder: Path) -> Adapter:
    """Hold the tensors of a PEFT folder against its configuration; raise the first Difference."""
    config = read_config(folder)
    file = folder / FILE
    if not file.is_file():
        raise Difference(FILE, "missing", AGAIN)
    modules: dict[str, dict[str, Tensor]] = {}
    full = {}
    tensors = header(file)
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        if match:
            modules.setdefault(match["module"], {})[match["part"]] = tensor
        else:
            full[name] = tensor
    _check_modules(config, modules)
    _check_full(config, full)
    _check_values(file, modules)
    return Adapter(modules, full, sum(math.prod(t.shape) for t in tensors.values()))


def targeted(config: dict[str, Any], module: str) -> bool:
    """Whether target_modules names this module, by PEFT's rule (a name after a dot, or a regex)."""
    wanted = config.get("target_modules") or []
    if isinstance(wanted, str):
        return wanted == "all-linear" or re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def rank_of(config: dict[str, Any], module: str) -> int:
    """The rank that the configuration gives a module: r, or what rank_pattern says."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return rank
    return config["r"]


def _check_modules(config, modules) -> None:
    if not modules:
        raise Difference(FILE, "holds no LoRA weights", AGAIN)
    experts = config.get("target_parameters")  # fused experts: one tensor for all of them
    for module, parts in modules.items():
        kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
        a, b = parts.get(f"{kind}A"), parts.get(f"{kind}B")
        if a is None or b is None:
            missing = f"{kind}{'A' if a is None else 'B'}"
            raise Difference(FILE, f"{module} has no {missing}", AGAIN)
        if experts:
            continue
        if not targeted(config, module):
            raise Difference(FILE, f"{module} is not among target_modules of {CONFIG}", AGAIN)
        rank = rank_of(config, module)
        if a.shape[0] != rank or b.shape[1] != rank:
            found = f"{module} has rank {a.shape[0]}, {CONFIG} says {rank}"
            raise Difference(FILE, found, AGAIN)
        if bool(config.get("use_dora")) != ("lora_magnitude_vector" in parts):
            found = f"use_dora is {bool(config.get('use_dora'))}, {module} says otherwise"
            raise Difference(FILE, found, AGAIN)
    wanted = config.get("target_modules")
    for name in wanted if isinstance(wanted, list) else []:
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            found = f"no weights for {name}, which {CONFIG} lists in target_modules"
            raise Difference(FILE, found, AGAIN)


def _check_full(config, full) -> None:
    for name in config.get("modules_to_save") or []:
        if not any(f".{name}." in tensor for tensor in full):
            found = f"no weights for {name}, which {CONFIG} lists in modules_to_save"
            raise Difference(FILE, found, AGAIN)


def _check_values(file: Path, modules) -> None:
    """Every LoRA weight is finite, and not every lora_B is zero (then nothing was learned)."""
    import numpy as np

    trained = False
    for module, parts in modules.items():
        for part, tensor in parts.items():
            values = read(file, tensor)
            if not np.isfinite(values).all():
                fix = "the training diverged: lower training.learning_rate and train again"
                raise Difference(file.name, f"{module}.{part} holds NaN or Inf", fix)
            if part in ("lora_B", "lora_embedding_B") and values.any():
                trained = True
    if not trained:
        fix = "the training changed nothing: look at metrics.jsonl and the learning rate"
        raise Difference(file.name, "every lora_B is zero: the adapter does nothing", fix)


def base_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{tensor name: shape} of a base model's safetensors files, {} where it has none."""
    shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "consolidated.safetensors":
            shapes |= {name: t.shape for name, t in header(Path(os.path.realpath(file))).items()}
    return shapes


def check_shapes(adapter: Adapter, base: Path) -> None:
    """Whether every lora_A and lora_B fits the base's weight of that name; Difference if not."""
    shapes = base_shapes(base)
    for module, parts in adapter.modules.items():
        weight = shapes.get(f"{module}.weight")
        if weight is None or len(weight) != 2 or "lora_A" not in parts:
            continue
        given = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        if given != weight:
            found = f"{module} is {given[0]} x {given[1]}, the base's {weight[0]} x {weight[1]}"
            raise Difference(FILE, found, "give the base model that it was trained on (--base)")
