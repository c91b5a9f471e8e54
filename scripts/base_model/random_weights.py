"""A base model of the real size without its weights: config.json alone, nothing is downloaded.

`write` makes the folder: the weights are holes in sparse files, which take no disk. `loading.load`
sees the folder's mark and draws the numbers anew where they were loaded, as large as those of an
untrained model, so that a training on it computes what a real one computes: shapes, memory, speed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base_model import description, identity, safetensors_header
from kit import console, paths, publish

MARK = "random_weights.json"
SHARD_BYTES = 4_900_000_000
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip
_TYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
          "torch.int64": "I64", "torch.int32": "I32", "torch.bool": "BOOL"}  # fmt: skip
# Of 4-bit weights: constants that give about the spread of a trained layer.
ABSMAX, NESTED_ABSMAX, NESTED_OFFSET = 0.05, 0.01, 0.05


def is_random(folder: Path) -> bool:
    """Whether a model's weights are holes that are to be drawn after loading."""
    return (folder / MARK).is_file()


def write(source: Path, out: Path) -> dict[str, Any]:
    """Make the model at `out` (replaced whole) from the config.json of `source`; its facts.

    Files of a tokenizer are copied where `source` has them. Problem where transformers cannot make
    the architecture.
    """
    values = description.read_config(source)
    quantised = values.pop("quantization_config", None) is not None
    tensors = dict(_tensors(values, source))
    facts = {
        "model_type": values.get("model_type"),
        "parameters": sum(math.prod(shape) for _, shape in tensors.values()),
        "bytes": sum(description.nbytes(*tensor) for tensor in tensors.values()),
        "tokenizer": (source / "tokenizer.json").is_file(),
    } | ({"note": "the source's quantised weights are bfloat16 here"} if quantised else {})
    if out.exists() and not is_random(out):
        raise console.Misuse(f"{paths.show(out)} has weights of its own", "choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    with publish.folder(out) as stage:
        publish.json_file(stage / "config.json", values)
        copy_tokenizer(source, stage)
        _write_shards(stage, tensors)
        publish.json_file(stage / MARK, facts)
    return facts


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy those of a tokenizer's files that `source` has."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _tensors(values: dict[str, Any], source: Path) -> Iterator[tuple[str, tuple[str, Any]]]:
    """(name, (dtype, shape)) of every tensor, tied ones once, by building the model of nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    named = values.get("dtype") or values.get("torch_dtype")
    dtype = getattr(torch, str(named), None) if named != "float8_e4m3fn" else None
    kind = str(values.get("model_type", ""))
    try:
        config = AutoConfig.for_model(kind, **{k: v for k, v in values.items()
                                               if k not in ("model_type", "auto_map")})  # fmt: skip
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype or torch.bfloat16, trust_remote_code=False
            )
    except Exception as error:  # an architecture's own complaint about its numbers
        why = console.first_line(error)
        raise console.Problem(
            f"{paths.show(source / 'config.json')}: no model can be made of it ({why[:200]})",
            "correct it, or give another model.model_name_or_path",
        ) from None
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tied_head = config.get_text_config().tie_word_embeddings and name.startswith("lm_head.")
        if id(tensor) not in seen and not tied_head:
            seen.add(id(tensor))
            yield name, (_TYPES.get(str(tensor.dtype), "BF16"), tuple(tensor.shape))


def _write_shards(folder: Path, tensors: dict[str, tuple[str, Any]]) -> None:
    """Sparse safetensors files with true headers, and the index of them."""
    shards: list[dict[str, tuple[str, Any]]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += description.nbytes(*tensor)
        if size > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = description.nbytes(*tensor)
        shards[-1][name] = tensor
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        where |= dict.fromkeys(shard, file)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape) in shard.items():
            end = at + math.prod(shape) * safetensors_header.BITS[dtype] // 8
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            os.truncate(out.fileno(), out.tell() + at)
    total = sum(description.nbytes(*tensor) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    publish.json_file(folder / identity.INDEX, index)


def draw(model: Any) -> None:
    """Draw every weight of a loaded model where it is, as its architecture begins a training."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        tensor._is_hf_initialized = False
    with torch.no_grad():
        for module in model.modules():
            if not _draw_quantised(module):
                model._init_weights(module)


def _draw_quantised(module: Any) -> bool:
    """Draw the weight of one of bitsandbytes' layers; False for any other module."""
    import torch

    weight = getattr(module, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is not None:
        weight.data.view(torch.uint8).random_(0, 256)
        if state.nested:
            state.absmax.random_(0, 256)
            state.state2.absmax.fill_(NESTED_ABSMAX)
            state.offset.fill_(NESTED_OFFSET)
        else:
            state.absmax.fill_(ABSMAX)
        return True
    if getattr(weight, "dtype", None) == torch.int8:
        weight.data.random_(-127, 128)
        weight.SCB.fill_(ABSMAX)
        return True
    return False
