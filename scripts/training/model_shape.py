"""The sizes of a model that decide memory and time, of config.json alone (no torch).

base_model/description.py knows under which names and in which section a configuration keeps them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from base_model import description
from base_model.description import Description
from kit import console

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Families whose feed-forward has no gate_proj.
UNGATED = ("gpt2", "opt", "gpt_neox", "bloom", "falcon", "starcoder2", "phi", "gptj", "mpt")
# Modules of one row for each token of the vocabulary, as the architectures call them.
VOCABULARY_LAYERS = frozenset({
    "lm_head", "embed_tokens", "wte", "embeddings", "embed_in", "embed_out", "word_embeddings",
    "tok_embeddings",
})  # fmt: skip
STATE_SPACE = ("mamba",)


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder, in elements. Linear layers: {name: (inputs, outputs, how many)}."""

    model_type: str
    hidden: int
    layers: int
    vocabulary: int
    heads: int
    query: int  # width of all query heads
    keys: int  # width of all key heads
    inner: int
    tied: bool
    linear: dict[str, tuple[int, int, int]]
    expert_parameters: int = 0  # fused experts, which 4 bits leave in full precision
    active_inner: int = 0  # width of the feed-forward that one token passes
    state: int = 0  # of a state-space model: numbers that each channel carries along
    counted_others: int = 0  # what is neither linear nor expert, where the files were counted

    @property
    def linear_parameters(self) -> int:
        return sum(i * o * n for i, o, n in self.linear.values())

    @property
    def other_parameters(self) -> int:
        """Embeddings, head and norms: never quantised."""
        if self.counted_others:
            return self.counted_others
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.hidden * (2 * self.layers + 1)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters + self.expert_parameters


def of_config(config: dict[str, Any]) -> ModelShape:
    """The shape that a config.json describes. Problem where it names no sizes that we know.

    `measured` in it, which base_model/description.py counts in the weights' headers, decides.
    """
    shape, files = _by_names(config), config.get("measured")
    if not files:
        return shape
    return dataclasses.replace(
        shape, linear=files["linear"], expert_parameters=files["experts"],
        counted_others=files["other"],
    )  # fmt: skip


def _by_names(config: dict[str, Any]) -> ModelShape:
    """The shape by the layers of Llama and Mamba, for a model whose weights are not here."""
    section = description.normalised(config)
    hidden, layers = _size(section, "hidden_size"), _size(section, "num_hidden_layers")
    kind = str(section.get("model_type", ""))
    tied = section.get("tie_word_embeddings", kind in STATE_SPACE)
    vocabulary = _size(section, "vocab_size")
    if kind in STATE_SPACE:
        return _state_space(section, kind, hidden, layers, vocabulary, bool(tied))
    heads = _size(section, "num_attention_heads")
    head = section.get("head_dim") or hidden // heads
    groups = section.get("num_key_value_heads") or heads
    inner = _size(section, "intermediate_size")
    gated = kind not in UNGATED
    query, keys = heads * head, groups * head
    linear = {
        "q_proj": (hidden, query, layers), "k_proj": (hidden, keys, layers),
        "v_proj": (hidden, keys, layers), "o_proj": (query, hidden, layers),
    }  # fmt: skip
    experts = next((section[k] for k in EXPERTS if section.get(k)), 0)
    expert_parameters, active = 0, inner
    dense_layers = layers
    if experts:
        width = section.get("moe_intermediate_size") or inner
        dense_layers = int(section.get("first_k_dense_replace") or 0)
        expert_parameters = 3 * hidden * width * experts * (layers - dense_layers)
        active = width * (section.get("num_experts_per_tok") or section.get("top_k_experts") or 2)
    if dense_layers:
        linear |= {"gate_proj": (hidden, inner, dense_layers)} if gated else {}
        linear |= {"up_proj": (hidden, inner, dense_layers),
                   "down_proj": (inner, hidden, dense_layers)}  # fmt: skip
    return ModelShape(kind, hidden, layers, vocabulary, heads, query, keys, inner, bool(tied),
                      linear, expert_parameters, active)  # fmt: skip


def of_model(model: Description) -> ModelShape:
    """The shape of a described model; its parameters come from the headers of its weights."""
    return of_config(model.sizes)


def _state_space(section, kind, hidden, layers, vocabulary, tied) -> ModelShape:
    inner = section.get("intermediate_size") or section.get("expand", 2) * hidden
    state = section.get("state_size", 16)
    rank = section.get("time_step_rank", "auto")
    rank = -(-hidden // 16) if rank == "auto" else rank
    linear = {
        "in_proj": (hidden, 2 * inner, layers), "x_proj": (inner, rank + 2 * state, layers),
        "dt_proj": (rank, inner, layers), "out_proj": (inner, hidden, layers),
    }  # fmt: skip
    return ModelShape(kind, hidden, layers, vocabulary, 1, inner, inner, inner, tied, linear,
                      active_inner=inner, state=state)  # fmt: skip


def _size(section: dict[str, Any], name: str) -> int:
    value = section.get(name)
    if value is None:
        raise console.Problem(
            f"config.json names no {name}, so memory and time cannot be estimated",
            "correct config.json, or download the model again",
        )
    return value
