"""Base models as files alone: true headers, holes for weights, made in milliseconds."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from base_model.safetensors_header import BITS

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 192, "vocab_size": 256, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "eos_token_id": 2,
}  # fmt: skip
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "tie_word_embeddings": False,
}  # fmt: skip
PHI3 = LLAMA | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}


def shapes_of(layers: dict[str, list[int]], count: int = 2, hidden: int = 64) -> dict:
    """{tensor: shape} of a model with these linear layers in each of `count` layers."""
    shapes = {"model.embed_tokens.weight": [256, hidden], "model.norm.weight": [hidden],
              "lm_head.weight": [256, hidden]}  # fmt: skip
    for i in range(count):
        shapes[f"model.layers.{i}.input_layernorm.weight"] = [hidden]
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layers.items()}
    return shapes


LLAMA_LAYERS = {
    "self_attn.q_proj": [64, 64], "self_attn.k_proj": [32, 64], "self_attn.v_proj": [32, 64],
    "self_attn.o_proj": [64, 64], "mlp.gate_proj": [192, 64], "mlp.up_proj": [192, 64],
    "mlp.down_proj": [64, 192],
}  # fmt: skip
PHI3_LAYERS = {
    "self_attn.qkv_proj": [128, 64], "self_attn.o_proj": [64, 64],
    "mlp.gate_up_proj": [384, 64], "mlp.down_proj": [64, 192],
}  # fmt: skip


def write_shard(path: Path, shapes: dict[str, list[int]], size: int = 0, dtype="BF16") -> None:
    """A safetensors file with a true header and a hole for data; padded to `size` if given."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(size - 8 - at) if size else text
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    assert not size or path.stat().st_size == size


def write_model(folder: Path, config: dict, shapes: dict | None = None, dtype="BF16") -> Path:
    """config.json and model.safetensors at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shapes is None:
        shapes = shapes_of(PHI3_LAYERS if config["model_type"] == "phi3" else LLAMA_LAYERS)
        rows = [config.get("vocab_size", 256), 64]
        shapes |= {"model.embed_tokens.weight": rows, "lm_head.weight": rows}
    write_shard(folder / "model.safetensors", shapes, dtype=dtype)
    return folder


CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer_json(
    special: tuple[str, ...] = ("<s>", "</s>"), split: str | None = None, more: int = 0
) -> str:
    """A byte-level tokenizer.json of single bytes; `split`: a regular expression before that.

    more: tokens that no text uses, for what transformers looks for in large vocabularies alone.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet += [f"unused{i}" for i in range(more)]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = bytes_
    if split:
        first = pre_tokenizers.Split(Regex(split), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return json.dumps(json.loads(tokenizer.to_str()))  # in ASCII: one byte a character


def write_tokenizer(folder: Path, text: str | None = None, **config: object) -> Path:
    """tokenizer.json and tokenizer_config.json at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
              "eos_token": "</s>", "chat_template": CHAT} | config  # fmt: skip
    (folder / "tokenizer.json").write_text(text or tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder
