"""Rows of several adapters in one pass: in every LoRA layer, the rows of one adapter are one group.

PEFT's own way (adapter_names) sets a hook on every layer for each pass and picks rows by lists of
numbers; both cost more than the matrices of a small batch. Here a layer runs its base once and adds
each adapter's part to a slice of rows, so rows are sorted by adapter (serving/batch.py).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

from kit import console

PLAIN = ("Linear", "Linear4bit", "Linear8bitLt")  # PEFT's layers whose adapter is two matrices

Groups = list[tuple[str, slice]]


class GroupedLora:
    """The LoRA layers of a PeftModel, taught to take their rows' adapters from `rows`."""

    def __init__(self, layers: list[Any]):
        self._groups: Groups | None = None  # None: PEFT's own forward
        self._taught: dict[int, Any] = {}  # the layers by id
        self._teach(layers)

    def _teach(self, layers: list[Any]) -> None:
        for layer in layers:
            if id(layer) not in self._taught:
                self._taught[id(layer)] = layer
                layer.forward = self._forward_of(layer)

    def adopt(self, model) -> None:
        """Teach the layers that another adapter brought. Problem for one that cannot be grouped."""
        layers = self._layers(model)
        if layers is None:
            raise console.Problem("its layers are more than two matrices each",
                                  "restart the server with it")  # fmt: skip
        self._teach(layers)

    @classmethod
    def install(cls, model) -> GroupedLora | None:
        """None where an adapter is more than two matrices a layer (DoRA, whole modules …)."""
        layers = cls._layers(model)
        return None if layers is None else cls(layers)

    @staticmethod
    def _layers(model) -> list[Any] | None:
        from peft.tuners.lora import LoraLayer
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        layers = []
        for module in model.modules():
            if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                continue
            plain = isinstance(module, LoraLayer) and type(module).__name__ in PLAIN
            if not plain or module.lora_variant or module.merged:
                return None
            layers.append(module)
        return layers

    @contextlib.contextmanager
    def rows(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Within it, row i of a pass uses the adapter names[i]; unknown names mean the base.

        Yields the arguments that the model needs for it: none.
        """
        self._groups = groups(names)
        try:
            yield {}
        finally:
            self._groups = None

    def _forward_of(self, layer: Any):
        """The layer's forward pass: PEFT's, or within `rows` ours."""
        original = layer.forward

        def forward(x, *args: Any, **kwargs: Any):
            if self._groups is None or "adapter_names" in kwargs:
                return original(x, *args, **kwargs)
            result = layer.base_layer(x, *args, **kwargs)
            for name, rows in self._groups:
                if name in layer.lora_A:
                    down, up = layer.lora_A[name], layer.lora_B[name]
                    part = layer._cast_input_dtype(x[rows], down.weight.dtype)
                    result[rows] += (up(down(part)) * layer.scaling[name]).to(result.dtype)
            return result

        return forward


def groups(names: list[str]) -> Groups:
    """Neighbours of one name as slices.

    >>> groups(["a", "a", "b"])
    [('a', slice(0, 2, None)), ('b', slice(2, 3, None))]
    """
    listed, begin = [], 0
    for name, same in itertools.groupby(names):
        end = begin + len(list(same))
        listed.append((name, slice(begin, end)))
        begin = end
    return listed
