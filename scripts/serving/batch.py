"""Rows that are decoded together over one KV cache; rows join and leave between two tokens.

Rows are padded on the left, so that all end in the same column. Attention layers keep keys and
values [rows, heads, length, dim]; Mamba's layers keep states [rows, …] without a length.
"""

from __future__ import annotations

from typing import Any

from kit import console


def new_cache(config):
    """An empty cache for a model's config. Problem for a kind of layer that cannot be batched."""
    from transformers.cache_utils import (
        DynamicCache,
        DynamicLayer,
        DynamicSlidingWindowLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionLayer,
    )

    cache = DynamicCache(config=config)
    # kept whole: rows that join have seen different lengths, and the mask does the sliding
    cache.layers = [
        DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer
        for layer in cache.layers
    ]
    known = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
    for layer in cache.layers:
        if type(layer) not in known:
            raise console.Problem(
                f"{config.model_type}: layers of {type(layer).__name__} cannot be batched here",
                "export the version (checkpoint_manager.py export) and serve it with vLLM",
            )
    return cache


class Batch:
    """`answers` (one a row), their `cache`, and the `mask` [rows, length] of real tokens."""

    def __init__(self, answers: list[Any], cache, mask):
        self.answers, self.cache, self.mask = answers, cache, mask

    @property
    def grows(self) -> bool:
        """Whether all layers keep keys and values alone, which take up tokens piece by piece."""
        return all(hasattr(layer, "keys") for layer in self.cache.layers) and not any(
            hasattr(layer, "conv_states") for layer in self.cache.layers
        )

    def bytes_per_token(self) -> float:
        """Bytes of keys and values for one token of one row; 0 for a model without attention."""
        tensors = [pair for layer in self.cache.layers for pair in _tensors(layer).values()]
        grown = sum(tensor.nbytes for tensor, along in tensors if along is not None)
        return grown / self.mask.numel()

    def append(self, tokens):
        """Room for one more token a row: the mask grows; returns `tokens` as [rows, 1]."""
        import torch

        ones = self.mask.new_ones((len(self.answers), 1))
        self.mask = torch.cat([self.mask, ones], dim=1)
        return torch.tensor(tokens, device=self.mask.device)[:, None]

    def join(self, other: Batch) -> None:
        """Take over the rows of `other`, padded on the left to the longer; sorted by adapter."""
        import torch

        length = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([_widen(part.mask, length, -1) for part in (self, other)])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            others = _tensors(theirs)
            for place, (tensor, along) in _tensors(mine).items():
                pair = [tensor, others[place][0]]
                if along is not None:
                    pair = [_widen(part, length, along) for part in pair]
                _replace(mine, place, torch.cat(pair))
        self.answers = self.answers + other.answers
        order = sorted(range(len(self.answers)), key=lambda i: self.answers[i].adapter)
        if order != list(range(len(order))):  # rows of one adapter are one group
            self.keep(order)

    def keep(self, rows: list[int]) -> None:
        """Only these rows stay; columns that none of them uses are cut off."""
        import torch

        self.answers = [self.answers[i] for i in rows]
        index = torch.tensor(rows, device=self.mask.device)
        longest = max((answer.length for answer in self.answers), default=0)
        start = max(0, self.mask.shape[1] - longest)
        self.mask = self.mask[index, start:]
        for layer in self.cache.layers:
            for place, (tensor, along) in _tensors(layer).items():
                kept = tensor.index_select(0, index)
                _replace(layer, place, kept if along is None else kept[:, :, start:].contiguous())


def _widen(tensor, length: int, along: int):
    """`tensor` padded with zeros on the left of dimension `along` (-1 or -2) to `length`."""
    from torch.nn.functional import pad

    missing = length - tensor.shape[along]
    return pad(tensor, (0, 0) * (-along - 1) + (missing, 0)) if missing else tensor


def _tensors(layer) -> dict[tuple[str, int | None], tuple[Any, int | None]]:
    """{place: (tensor, dimension of the length or None)} of what a layer keeps."""
    kept: dict[tuple[str, int | None], tuple[Any, int | None]] = {}
    for name in ("keys", "values"):
        if getattr(layer, name, None) is not None:
            kept[name, None] = getattr(layer, name), -2
    for name in ("conv_states", "recurrent_states"):
        for i, state in getattr(layer, name, {}).items():
            if state is not None:
                kept[name, i] = state, None
    return kept


def _replace(layer, place: tuple[str, int | None], tensor) -> None:
    name, i = place
    if i is None:
        setattr(layer, name, tensor)
    else:
        getattr(layer, name)[i] = tensor
