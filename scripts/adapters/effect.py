"""What an adapter does to its base, and therefore how it can be used: decided in this one place.

Evaluation, canary, server, exports and the vLLM line ask `of(folder)`. The answers come from
adapter_config.json and the names of the tensors alone (no torch, no base): adapter_features.py has
the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters import weights
from adapters.adapter_features import ALONE, FEATURES, IN_TURNS, TOGETHER, Feature
from adapters.weights import Adapter
from kit import console

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embeddings", "embed_in",
              "embed_out", "tok_embeddings")  # fmt: skip
OUTPUTS = {"lm_head", "embed_out", "output"}  # a base without one of them has tied embeddings


@dataclasses.dataclass(frozen=True)
class Effect:
    """How one adapter may be used. `features` are (Feature, its name in words)."""

    adapter: Adapter
    features: tuple[tuple[Feature, str], ...]

    @property
    def base_changes(self) -> list[str]:
        """The features for which a base with the adapter switched off is not the untouched base."""
        return [words for feature, words in self.features if feature.changes_base]

    @property
    def company(self) -> str:
        """TOGETHER, IN_TURNS or ALONE: the least company that a feature allows."""
        return least_company(feature.company for feature, _ in self.features)

    @property
    def embedding_rows(self) -> int:
        """Rows of an embedding that is saved whole: the base's must get as many. 0 for none."""
        rows = [
            tensor.shape[0]
            for name, tensor in self.adapter.full.items()
            if len(tensor.shape) == 2 and _module_name(name) in EMBEDDINGS
        ]
        return max(rows, default=0)

    def check_load(self, reference: str, quantized: bool = False) -> None:
        """Problem where the adapter cannot be loaded as it was trained."""
        for feature, words in self.features:
            if feature.load:
                text = f"{reference} ({words}) cannot be loaded: {feature.load}"
                raise console.Problem(text, feature.remedy)
            if feature.full_precision and quantized:
                raise console.Problem(
                    f"{reference} ({words}) cannot be loaded on a base in 4 or 8 bits",
                    "load the base in full precision (load_in_4bit: false, --no-load-in-4bit)",
                )

    def check_serve(self, reference: str, quantized: bool = False) -> None:
        """Problem where scripts/model_server.py cannot serve it."""
        self.check_load(reference, quantized)
        for feature, words in self.features:
            if feature.serve:
                raise console.Problem(
                    f"{reference} ({words}) cannot be served: {feature.serve}",
                    "load it with CheckpointManager().load_checkpoint and PEFT's own generate",
                )

    def check_reference(self, reference: str) -> None:
        """Problem where it cannot be trained on beside a frozen copy of itself or its base."""
        if self.base_changes:
            raise console.Problem(
                f"{reference} ({', '.join(self.base_changes)}) changes its base, which preference "
                f"training compares with",
                "merge it (checkpoint_manager.py export --format merged) and start from that model",
            )

    def check_merge(self, reference: str, base: Path) -> None:
        """Problem where base and adapter cannot become one model of the base's own kind."""
        self.check_load(reference)
        for feature, words in self.features:
            if feature.merge:
                raise _not_mergeable(reference, words, feature.merge)
        shapes = weights.base_shapes(base)
        biased = [m for m, parts in self.adapter.modules.items() if "lora_B.bias" in parts]
        known = [module for module in biased if f"{module}.weight" in shapes]
        missing = [module for module in known if f"{module}.bias" not in shapes]
        if missing:
            why = f"the base's {missing[0]} has no bias"
            raise _not_mergeable(reference, "lora_bias", why)
        tied = bool(shapes) and not OUTPUTS & set(map(_module_name, shapes))
        embeddings = [m for m in self.adapter.modules if m.rpartition(".")[2] in EMBEDDINGS]
        if tied and embeddings:
            why = "the base has one matrix for input and output, and both would change"
            raise _not_mergeable(reference, f"LoRA on {embeddings[0]}", why)

    @property
    def mergeable(self) -> bool:
        """Whether check_merge passes, as far as that can be said without the base."""
        return not any(feature.merge or feature.load for feature, _ in self.features)

    @property
    def vllm_refusals(self) -> list[str]:
        """The features for which vLLM cannot serve it, or would serve another model."""
        return [words for feature, words in self.features if not feature.vllm]


def least_company(companies: Iterable[str]) -> str:
    """The one of TOGETHER, IN_TURNS, ALONE that all of `companies` allow."""
    return max(companies, key=(TOGETHER, IN_TURNS, ALONE).index, default=TOGETHER)


def _module_name(tensor: str) -> str:
    """'base_model.model.model.embed_tokens.weight' -> 'embed_tokens'"""
    return tensor.removesuffix(".weight").rpartition(".")[2]


def _not_mergeable(reference: str, words: str, why: str) -> console.Problem:
    fix = f"serve it instead: python scripts/model_server.py --checkpoint {reference}"
    return console.Problem(f"{reference} ({words}) cannot be merged: {why}", fix)


def of(adapter: Path | Adapter) -> Effect:
    """The Effect of a PEFT folder; Difference where it is damaged."""
    adapter = adapter if isinstance(adapter, Adapter) else weights.describe(adapter)
    features = []
    for feature in FEATURES:
        presence = feature.presence(adapter)
        if presence:
            words = f"{feature.name}: {presence}" if isinstance(presence, str) else feature.name
            features.append((feature, words))
    return Effect(adapter, tuple(features))


def check_company(effects: Mapping[str, Effect]) -> str:
    """How adapters {reference: Effect} on one base are served: TOGETHER, IN_TURNS or ALONE.

    Problem where one of several must be alone.
    """
    for reference, effect in effects.items():
        if effect.company == ALONE and len(effects) > 1:
            words = next(w for feature, w in effect.features if feature.company == ALONE)
            fix = "serve it alone"
            if effect.mergeable:
                export = f"checkpoint_manager.py export {reference} --format merged --output DIR"
                fix += f", or merge it: {export}"
            raise console.Problem(f"{reference} ({words}) cannot be served beside others", fix)
    return least_company(effect.company for effect in effects.values())


def fit_embedding(model, adapters: Iterable[tuple[Effect, Path, Any]]) -> bool:
    """Give a base the embedding that adapters (effect, folder, tokenizer) need; whether it changed.

    An embedding that an adapter saved whole decides, larger or smaller (tokens were added, or the
    padding of the vocabulary cut off); else it grows for an adapter's own tokenizer, as with PEFT's
    AutoPeftModel.
    """
    adapters = list(adapters)
    rows = model.get_input_embeddings().weight.shape[0]
    own = [len(tokenizer) for _, folder, tokenizer in adapters
           if tokenizer is not None and (folder / "tokenizer_config.json").is_file()]  # fmt: skip
    whole = max((effect.embedding_rows for effect, _, _ in adapters), default=0)
    wanted = whole or max([rows, *own])
    if wanted != rows:
        model.resize_token_embeddings(wanted)
    return wanted != rows
