"""One forward pass over a batch's rows: positions, adapters, prompts read in pieces.

Rows of different adapters share a pass: as groups (grouped_lora.py), or by PEFT's adapter_names
where an adapter is more than LoRA. A pass that raises leaves nothing behind: PEFT would keep the
rows' adapters in hooks, and later batches would answer with them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from serving.batch import Batch
from serving.grouped_lora import GroupedLora

BASE = "__base__"  # PEFT's name for "no adapter"
PIECE = 2048  # tokens of all rows that are read at once: what a pass needs beside the cache
HOOK = "_adapter_names_pre_forward_hook"  # peft/tuners/tuners_utils.py


class ForwardPass:
    """`model`: a PeftModel, or a plain causal LM; `mixed`: PEFT may get each row's adapter."""

    def __init__(self, model, mixed: bool = True):
        self.model, self.mixed = model, mixed
        self.steps = self.rows = 0  # forward passes, rows in them
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self.config = base.config
        self._takes = inspect.signature(base.forward).parameters
        self._active: str | None = None
        grouped = mixed and hasattr(model, "peft_config")
        self._grouped = GroupedLora.install(model) if grouped else None

    def adopt(self) -> None:
        """Take in the layers of an adapter that was loaded since."""
        self.clean()
        if self._grouped:
            self._grouped.adopt(self.model)

    def logits(self, batch: Batch, ids, first: bool):
        """The logits [rows, vocabulary] of what follows `ids` [rows, n], as float32.

        The batch's cache takes `ids` up. first: they are whole prompts.
        """
        self.rows += len(batch.answers)
        whole = ids.numel() <= PIECE or "cache_params" in self._takes or not batch.grows
        piece = ids.shape[1] if whole else max(1, PIECE // len(ids))
        before = batch.mask.shape[1] - ids.shape[1]
        for begin in range(0, ids.shape[1], piece):
            part = ids[:, begin : begin + piece]
            mask = batch.mask[:, : before + begin + part.shape[1]]
            logits = self._run(batch, part, mask, first)
        return logits

    def _run(self, batch: Batch, ids, mask, first: bool):
        self.steps += 1
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "cache_params" in self._takes:  # Mamba: its states have no columns to be masked
            inputs |= {"cache_params": batch.cache, "attention_mask": mask if first else None}
        else:
            inputs["past_key_values"] = batch.cache
        if "position_ids" in self._takes:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        try:
            with self._adapters([answer.adapter for answer in batch.answers]) as names:
                return self.model(**inputs, **names, use_cache=True).logits[:, -1].float()
        except BaseException:
            self.clean()
            raise

    def _adapters(self, names: list[str]) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """What makes each row use its adapter: PEFT's faster way where all use the same."""
        if not hasattr(self.model, "peft_config"):
            return contextlib.nullcontext({})
        if self._grouped:
            return self._grouped.rows(names)
        if names[0] == BASE and not self.mixed:
            return self._without_adapter()
        if names[0] == BASE or len(set(names)) > 1:
            return contextlib.nullcontext({"adapter_names": names})
        if self._active != names[0]:
            self._active = None
            self.model.set_adapter(names[0])
            self._active = names[0]
        return contextlib.nullcontext({})

    @contextlib.contextmanager
    def _without_adapter(self) -> Iterator[dict[str, Any]]:
        """The base alone, for layers that take no names of rows."""
        with self.model.disable_adapter():
            yield {}

    def clean(self) -> None:
        """Remove the hooks that PEFT leaves on every layer when a pass of mixed rows raises."""
        self._active = None
        for module in self.model.modules():
            hooks = module._forward_pre_hooks
            for key, hook in list(hooks.items()):
                if getattr(getattr(hook, "func", None), "__name__", "") == HOOK:
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
