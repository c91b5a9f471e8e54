"""Read an adapter's safetensors without torch and compare it with adapter_config.json.

A PEFT folder of a LoRA contains, for each adapted module of the base, lora_A [r, in] and lora_B
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

from adapters import peft_config
from adapters.peft_config import AGAIN
from base_model import locate, safetensors_header
from base_model.identity import Difference

FILE = locate.ADAPTER_WEIGHTS
PART = 1 << 24  # values that are read at once: 64 MB as float32
# base_model.model.<module>.lora_A.weight; embeddings have no .weight; DoRA and others add vectors
_LORA = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_\w+)(?:\.weight|(?P<bias>\.bias))?"
)


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
    tensors = {}
    for name, entry in entries.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), start, end)
    return tensors


def read(path: Path, tensor: Tensor):
    """The tensor's values as a numpy array; bfloat16 and float16 come as float32."""
    import numpy as np

    raw = np.fromfile(path, dtype=np.uint8, count=tensor.end - tensor.start, offset=tensor.start)
    if tensor.dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4").reshape(tensor.shape)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    if tensor.dtype not in kinds:
        raise Difference(path.name, f"weights of type {tensor.dtype}", AGAIN)
    values = raw.view(kinds[tensor.dtype]).reshape(tensor.shape)
    return values.astype("<f4") if tensor.dtype == "F16" else values


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter's configuration and what its tensors are."""

    config: dict[str, Any]
    modules: dict[str, dict[str, Tensor]]  # module of the base -> part (lora_A, lora_B.bias …)
    full: dict[str, Tensor]  # tensors saved whole: modules_to_save, resized embeddings
    parameters: int

    @property
    def rank(self) -> int:
        """The highest rank of any module: what vLLM's --max-lora-rank must allow."""
        sides = [t for parts in self.modules.values() for p, t in parts.items() if p[-2:] == "_A"]
        return max(tensor.shape[0] for tensor in sides)


def describe(folder: Path) -> Adapter:
    """The Adapter of a PEFT folder, without a look at its values; Difference if it is damaged."""
    config, file = peft_config.read(folder), folder / FILE
    if not file.is_file():
        raise Difference(FILE, "missing", AGAIN)
    modules: dict[str, dict[str, Tensor]] = {}
    full = {}
    tensors = header(file)
    for name, tensor in tensors.items():
        match = _LORA.fullmatch(name)
        if match:
            part = match["part"] + (match["bias"] or "")
            modules.setdefault(match["module"], {})[part] = tensor
        else:
            full[name] = tensor
    if not modules:
        raise Difference(FILE, "holds no LoRA weights", AGAIN)
    return Adapter(config, modules, full, sum(math.prod(t.shape) for t in tensors.values()))


def inspect(folder: Path) -> Adapter:
    """Compare the tensors of a PEFT folder with its configuration; raise the first Difference."""
    adapter = describe(folder)
    config = adapter.config
    for module, parts in adapter.modules.items():
        _check_module(config, module, parts)
    _check_targets(config, adapter.modules)
    _check_full(config, adapter.full)
    _check_values(folder / FILE, adapter)
    return adapter


def _check_module(config: dict[str, Any], module: str, parts: dict[str, Tensor]) -> None:
    """The parts of one module: a whole pair, of the rank that the configuration gives it."""
    kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
    a, b = parts.get(f"{kind}A"), parts.get(f"{kind}B")
    if a is None or b is None:
        missing = f"{kind}{'A' if a is None else 'B'}"
        raise Difference(FILE, f"{module} has no {missing}", AGAIN)
    if peft_config.has_target_parameter(config, module):
        return  # fused experts: one pair for all of them, of r times their number
    if not peft_config.targeted(config, module):
        text = f"{module} is not among target_modules of {peft_config.FILE}"
        raise Difference(FILE, text, AGAIN)
    rank = peft_config.rank_of(config, module)
    ranks = (*a.shape[:1], *b.shape[1:2])  # a convolution's matrices have more dimensions
    if not config.get("use_bdlora") and ranks != (rank, rank):
        text = f"{module} has rank {ranks[0] if ranks else 0}, {peft_config.FILE} says {rank}"
        raise Difference(FILE, text, AGAIN)
    if bool(config.get("use_dora")) != ("lora_magnitude_vector" in parts):
        text = f"use_dora is {bool(config.get('use_dora'))}, {module} says otherwise"
        raise Difference(FILE, text, AGAIN)


def _check_targets(config: dict[str, Any], modules: dict[str, Any]) -> None:
    """Every name in target_modules has weights, unless exclude_modules may have taken all of it."""
    wanted, excluded = config.get("target_modules"), config.get("exclude_modules")
    for name in wanted if isinstance(wanted, list) else []:
        is_target = any(module == name or module.endswith(f".{name}") for module in modules)
        if is_target or isinstance(excluded, str) or peft_config.excluded(config, name):
            continue  # which modules a pattern takes only the base could tell
        text = f"no weights for {name}, which {peft_config.FILE} lists in target_modules"
        raise Difference(FILE, text, AGAIN)


def _check_full(config: dict[str, Any], full: dict[str, Tensor]) -> None:
    for name in config.get("modules_to_save") or []:
        if not any(f"{name}." in tensor for tensor in full):
            text = f"no weights for {name}, which {peft_config.FILE} lists in modules_to_save"
            raise Difference(FILE, text, AGAIN)


def _check_values(file: Path, adapter: Adapter) -> None:
    """Every weight is finite, and not every lora_B is zero (then nothing was learned)."""
    trained = False
    for module, parts in adapter.modules.items():
        for part, tensor in parts.items():
            nonzero = _check_tensor(file, f"{module}.{part}", tensor)
            trained = trained or (nonzero and part in ("lora_B", "lora_embedding_B"))
    for name, tensor in adapter.full.items():
        _check_tensor(file, name, tensor)
    if not trained:
        fix = "the training changed nothing: look at metrics.jsonl and the learning rate"
        raise Difference(file.name, "every lora_B is zero: the adapter does nothing", fix)


def _check_tensor(file: Path, name: str, tensor: Tensor) -> bool:
    """Whether a tensor holds a value that is not zero; Difference for NaN or Inf. Read in parts."""
    import numpy as np

    nonzero = False
    size = (tensor.end - tensor.start) // max(1, math.prod(tensor.shape))  # bytes of a value
    for start in range(tensor.start, tensor.end, size * PART):
        end = min(start + size * PART, tensor.end)
        values = read(file, Tensor(tensor.dtype, ((end - start) // size,), start, end))
        if not np.isfinite(values).all():
            fix = "the training diverged: lower training.learning_rate and train again"
            raise Difference(file.name, f"{name} holds NaN or Inf", fix)
        nonzero = nonzero or bool(values.any())
    return nonzero


def base_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{tensor name: shape} of a base model's safetensors files, {} where it has none."""
    shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "consolidated.safetensors":
            shapes |= {name: t.shape for name, t in header(Path(os.path.realpath(file))).items()}
    return shapes


def check_shapes(adapter: Adapter, base: Path) -> None:
    """Whether every lora_A and lora_B fits the base's weight of that name; Difference if not."""
    config = adapter.config
    if config.get("use_qalora") or config.get("use_bdlora"):
        return  # their matrices are smaller than the weight, by design
    shapes = base_shapes(base)
    for module, parts in adapter.modules.items():
        weight = shapes.get(f"{module}.weight")
        if weight is None or len(weight) != 2 or "lora_A" not in parts:
            continue
        given = (parts["lora_B"].shape[0], parts["lora_A"].shape[1])
        if config.get("fan_in_fan_out"):  # GPT-2 keeps its weights transposed
            given = given[::-1]
        if given != weight:
            text = f"{module} is {given[0]} x {given[1]}, the base's {weight[0]} x {weight[1]}"
            raise Difference(FILE, text, "give the base model that it was trained on (--base)")
