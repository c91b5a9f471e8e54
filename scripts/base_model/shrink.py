"""The configuration of an architecture with small dimensions: a miniature is built from it."""

from __future__ import annotations

from typing import Any

from base_model import description

HIDDEN, HEAD, LAYERS = 64, 32, 2  # multiples of 64 and heads of 32: 4-bit kernels need them
_SMALL: dict[str, int] = {
    "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": 192, "head_dim": HEAD, "max_position_embeddings": 2048,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_intermediate_size": 64, "n_shared_experts": 1,
    "shared_expert_intermediate_size": 64, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
    "v_head_dim": 32, "qk_head_dim": 32, "global_head_dim": HEAD,
    # state-space models
    "state_size": 16, "ssm_state_size": 16, "mamba_d_state": 16, "mamba_n_heads": 4,
    "mamba_num_heads": 4, "mamba_d_head": 32, "mamba_head_dim": 32, "mamba_n_groups": 1,
    "n_groups": 1, "mamba_chunk_size": 16, "chunk_size": 16, "time_step_rank": 4,
    "mamba_dt_rank": 4, "mamba_d_ssm": 128, "num_heads": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 32,
    "linear_value_head_dim": 32, "conv_dim": HIDDEN, "lru_width": HIDDEN,
    "attention_window_size": 64, "sliding_window": 64, "query_pre_attn_scalar": HEAD,
    # per-layer extras
    "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0, "num_nextn_predict_layers": 0,
    "rotary_dim": 16, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
    "expert_layer_offset": 1, "word_embed_proj_dim": HIDDEN, "embedding_size": HIDDEN,
}  # fmt: skip
_DROPPED = ("rope_scaling", "quantization_config", "auto_map", "_name_or_path", "architectures",
            "transformers_version", "torch_dtype", "dtype", "dim_model_base", "model_type",
            "vision_config", "audio_config")  # fmt: skip


def shrunk(values: dict[str, Any], vocabulary: int, ids: dict[str, int | None]) -> dict[str, Any]:
    """`values` (a whole config as a dict) with small dimensions and the ids of a tokenizer."""
    small = {k: v for k, v in values.items() if k not in _DROPPED}
    for name, value in _SMALL.items():
        for key in (name, *description.ALIASES.get(name, ())):
            if isinstance(small.get(key), (int, float, list)) and not isinstance(small[key], bool):
                small[key] = value
    for key in ("vocab_size", *description.ALIASES["vocab_size"]):
        if key in small:
            small[key] = vocabulary
    if "qk_rope_head_dim" in small and "head_dim" in small:  # latent attention rotates a part
        small["head_dim"] = small["qk_rope_head_dim"]
    for key in ("num_key_value_heads", "num_kv_heads", "n_head_kv"):
        if isinstance(small.get(key), (int, list)):
            small[key] = 1 if _fewer(values, key) else 2
    if small.get("n_routed_experts") and small.get("num_experts_per_tok") is None:  # DeepSeek-V2
        small["num_experts_per_tok"] = 2
    if "attn_layer_indices" in small:  # Bamba: which of its layers attend
        small["attn_layer_indices"] = [1]
    _shorten_layers(small, values)
    _plain_rope(small)
    return small | {key: value for key, value in ids.items() if value is not None}


def _fewer(values: dict[str, Any], key: str) -> bool:
    """Whether keys and values have fewer heads than queries."""
    heads = description.normalised(values).get("num_attention_heads")
    return isinstance(values[key], int) and heads is not None and values[key] < heads


def _shorten_layers(small: dict[str, Any], values: dict[str, Any]) -> None:
    """One layer of each type, and every list with an entry for each layer cut to that number."""
    before = description.normalised(values).get("num_hidden_layers")
    types = next((small[k] for k in ("layer_types", "layers_block_type") if small.get(k)), [])
    kinds = list(dict.fromkeys(types))
    kinds = (kinds * LAYERS)[: max(LAYERS, len(kinds))]
    for key in ("num_hidden_layers", *description.ALIASES["num_hidden_layers"]):
        if key in small and kinds:
            small[key] = len(kinds)
    count = len(kinds) or LAYERS
    for key, value in list(small.items()):
        if isinstance(value, list) and before and len(value) == before:
            small[key] = kinds if key in ("layer_types", "layers_block_type") else value[:count]


def _plain_rope(small: dict[str, Any]) -> None:
    """Rotary positions without the scaling that a long context brings."""
    rope = small.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    nested = {k: v for k, v in rope.items() if isinstance(v, dict)}
    if nested:
        small["rope_parameters"] = {k: _plain(v) for k, v in nested.items()}
    else:
        small["rope_parameters"] = _plain(rope)


def _plain(rope: dict[str, Any]) -> dict[str, Any]:
    kept = {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
    return {"rope_type": "default"} | kept


def config_like(folder_config: dict[str, Any], vocabulary: int, ids: dict[str, int | None]) -> Any:
    """A transformers configuration of the architecture that config.json names, made small.

    A model of several senses gives its text part. Raises ValueError where transformers does not
    know the architecture, or cannot make it small.
    """
    from transformers import AutoConfig

    kind, values = text_part(folder_config)
    complete = AutoConfig.for_model(kind, **values).to_dict() | values
    try:
        return AutoConfig.for_model(kind, **shrunk(complete, vocabulary, ids))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{kind} cannot be made small: {error}") from None


def text_part(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(model_type, values) of the text model in a config.json."""
    part = values.get("text_config")
    if isinstance(part, dict) and part.get("model_type"):
        values = part
    kind = str(values.get("model_type", ""))
    return kind, {k: v for k, v in values.items() if k not in _DROPPED}
