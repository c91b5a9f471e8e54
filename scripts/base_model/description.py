"""What a base model's files say about it: read once here, asked by every command.

config.json (with its text_config, and the attribute names of GPT-2-like models), the headers of
its safetensors, generation_config.json, tokenizer_config.json. No tensor is read, no package is
needed, and a folder without weights is described by what it has.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from base_model import locate, safetensors_header
from base_model.identity import INDEX, SINGLE
from kit import console

# the names of Llama's config.json -> what others call the same number
ALIASES = {
    "hidden_size": ("n_embd", "d_model", "dim", "model_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "mlp_hidden_size"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
                                "seq_length", "model_max_length"),
    "vocab_size": ("padded_vocab_size", "n_vocab"),
}  # fmt: skip
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_EXPERT = re.compile(r"\.experts(?:\.|_)")
OTHER_SENSES = (
    r"(?:vision\w*|visual|image\w*|vit|audio\w*|multi_modal_projector|mm_\w+|speech\w*|"
    r"aligner|connector|embed_vision|embed_audio|cross_attn)"  # Mllama's: to pictures
)
_OTHER_SENSE = re.compile(rf"(?:^|\.){OTHER_SENSES}\.")
_LAYER = re.compile(r"\.(\d+)\.")


def config(model: str | os.PathLike, revision: str | None = None) -> dict[str, Any]:
    """The `sizes` of a model on this machine. Problem where there is none."""
    folder = model if isinstance(model, Path) else locate.require(str(model), revision)
    return read(folder).sizes


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it lies there. Problem where it is not a JSON object."""
    values = json_object(folder / "config.json")
    if values is None:
        raise console.Problem(f"{folder / 'config.json'}: not JSON", "download the model again")
    return values


def normalised(raw: dict[str, Any]) -> dict[str, Any]:
    """A config with the text model's values on top, each also under Llama's name for it."""
    values = dict(raw)
    part: Any = raw
    while isinstance(part, dict):
        values |= {k: v for k, v in part.items() if v is not None and k != "model_type"}
        part = next((part[k] for k in _TEXT_PARTS if isinstance(part.get(k), dict)), None)
    for name, others in ALIASES.items():
        if values.get(name) is None:
            values[name] = next((values[o] for o in others if values.get(o) is not None), None)
        values[name] = _number(values[name])
    if values.get("multi_query") and not values.get("new_decoder_architecture"):  # Falcon, BigCode
        values["num_key_value_heads"] = 1
    if values["intermediate_size"] is None and values["hidden_size"] and "expand" not in values:
        values["intermediate_size"] = 4 * values["hidden_size"]
    return {name: value for name, value in values.items() if value is not None}


def _number(value: Any) -> int | None:
    """A whole number; the largest where each layer has its own."""
    if isinstance(value, list):
        value = max((v for v in value if isinstance(v, int)), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def json_object(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None for anything else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer of the text model, as it is saved: `module` is its whole name."""

    module: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """A base model as its files describe it."""

    folder: Path
    raw: dict[str, Any]  # config.json as it is
    config: dict[str, Any]  # `normalised`
    tensors: dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape); {} without weights
    names: frozenset[str]  # of the tensors; from the index alone where no shard is there
    generation: dict[str, Any]
    tokenizer: dict[str, Any]  # tokenizer_config.json
    broken: dict[str, str] = dataclasses.field(default_factory=dict)  # shard -> what is wrong

    @property
    def model_type(self) -> str:
        return str(self.raw.get("model_type", ""))

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding itself."""
        has_head = any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in self.names)
        default = self.model_type not in ("phi", "gpt_neox", "falcon") and not has_head
        return bool(self.config.get("tie_word_embeddings", default))

    @property
    def context(self) -> int | None:
        """How many tokens it was made for, None where nothing bounds them."""
        most = self.config.get("max_position_embeddings")
        rope = self.config.get("rope_scaling") or self.config.get("rope_parameters") or {}
        factor = rope.get("factor") if isinstance(rope, dict) else None
        if not most or not isinstance(factor, (int, float)) or factor <= 1:
            return most
        extended = rope.get("original_max_position_embeddings", most) == most
        return int(most * factor) if extended else most

    @property
    def learned_positions(self) -> bool:
        """Whether positions are rows of a table, beyond which there is nothing."""
        tables = ("wpe.weight", "embed_positions.weight", "position_embeddings.weight")
        return any(name.endswith(tables) and not is_other_sense(name) for name in self.names)

    @property
    def layers(self) -> set[int]:
        """The numbers of the text model's layers that the weights have."""
        numbers = (_LAYER.search(name) for name in self.tensors if not is_other_sense(name))
        return {int(number[1]) for number in numbers if number}

    @property
    def rows(self) -> int | None:
        """Rows of the embedding: ids must be smaller."""
        embedding = self.embedding
        return embedding[0] if embedding else self.config.get("vocab_size")

    @property
    def embedding(self) -> tuple[int, ...] | None:
        """The shape of the input embedding: as it is saved, else as config.json has it."""
        hidden, rows = self.config.get("hidden_size"), self.config.get("vocab_size")
        return self.saved_embedding or ((rows, hidden) if rows and hidden else None)

    @functools.cached_property
    def saved_embedding(self) -> tuple[int, ...] | None:
        """The shape of the input embedding in the weights."""
        hidden = self.config.get("hidden_size")
        ends = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "embeddings.weight",
                "word_embeddings.weight", "tok_embeddings.weight", "embedding.weight")  # fmt: skip
        named = [n for n in self.tensors if n.endswith(ends) and not is_other_sense(n)]
        shapes = [self.tensors[n][1] for n in named if len(self.tensors[n][1]) == 2]
        fitting = [shape for shape in shapes if hidden in shape]
        return max(fitting or shapes, default=None)

    @functools.cached_property
    def linears(self) -> list[Linear]:
        """The layers of the text model that LoRA can adapt by name: no expert, no other sense."""
        made = []
        for name, (dtype, shape) in self.tensors.items():
            module = name.removesuffix(".weight").removesuffix(".qweight")
            if module == name or not is_adaptable(name):
                continue
            if len(shape) == 2 or dtype == "U8":  # 4-bit weights lie flat
                outputs, inputs = (*shape, 1)[:2]
                made.append(Linear(module, inputs, outputs))
        return made

    @property
    def weight_bytes(self) -> int:
        return sum(nbytes(*tensor) for tensor in self.tensors.values())

    @property
    def sizes(self) -> dict[str, Any]:
        """`config` with what the headers count: what estimates of memory and time stand on."""
        return self.config | {"measured": self.measured}

    @property
    def measured(self) -> dict[str, Any] | None:
        """Parameters counted from the headers, None without weights or with packed ones.

        linear: {name: (inputs, outputs, layers)} of the text model; experts: routed experts, which
        4 bits leave in full precision; other: embeddings, head, norms, vision and audio.
        """
        packed = "quantization_config" in self.raw
        if not self.tensors or packed or self.names != set(self.tensors):
            return None
        counts = {n: math.prod(shape) for n, (_, shape) in self.tensors.items()}
        experts = sum(count for name, count in counts.items() if is_expert(name))
        sizes: dict[str, collections.Counter] = {}
        for layer in self.linears:
            sizes.setdefault(layer.name, collections.Counter())[layer.inputs, layer.outputs] += 1
        linear = {}
        for name, counted in sizes.items():  # where layers differ, the usual size stands for all
            (inputs, outputs), _ = counted.most_common(1)[0]
            total = sum(i * o * n for (i, o), n in counted.items())
            linear[name] = (inputs, outputs, max(1, round(total / (inputs * outputs))))
        rest = sum(counts.values()) - experts
        rest -= sum(layer.inputs * layer.outputs for layer in self.linears)
        return {"linear": linear, "experts": experts, "other": rest}

    def dtypes(self) -> dict[str, int]:
        """{dtype: how many values} of the tensors, the most common first."""
        counts: collections.Counter[str] = collections.Counter()
        for dtype, shape in self.tensors.values():
            counts[dtype] += math.prod(shape)
        return dict(counts.most_common())


def is_expert(tensor: str) -> bool:
    """Whether a tensor belongs to routed experts, which transformers keeps as one parameter."""
    return bool(_EXPERT.search(tensor))


def is_other_sense(tensor: str) -> bool:
    """Whether a tensor belongs to a vision or audio part."""
    return bool(_OTHER_SENSE.search(tensor))


def is_adaptable(tensor: str) -> bool:
    """Whether it lies in a layer of the text model, outside routed experts."""
    in_layer = _LAYER.search(tensor) is not None
    return in_layer and not is_expert(tensor) and not is_other_sense(tensor)


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * safetensors_header.BITS[dtype] // 8


def read(folder: Path) -> Description:
    """The Description of a folder. Problem where config.json is not readable.

    Weights that are missing are left out; broken ones are in `broken`.
    """
    raw = read_config(folder)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    index = json_object(folder / INDEX) or {}
    named = index.get("weight_map") if isinstance(index.get("weight_map"), dict) else {}
    files = sorted({str(file) for file in named.values()}) or [SINGLE]
    files = [file for file in files if re.fullmatch(r"\w[\w.-]*", file)]  # nothing elsewhere
    broken = {}
    for file in files:
        path = folder / file
        try:
            tensors |= safetensors_header.read(path) if path.is_file() else {}
        except (OSError, safetensors_header.Broken) as error:
            broken[file] = getattr(error, "strerror", None) or str(error)
    return Description(
        folder,
        raw,
        normalised(raw),
        tensors,
        frozenset(tensors) | frozenset(named),
        json_object(folder / "generation_config.json") or {},
        json_object(folder / "tokenizer_config.json") or {},
        broken,
    )


def of(model: str, revision: str | None = None) -> Description:
    """The Description of a configured model. Problem where it is not on this machine."""
    return read(locate.require(model, revision))
