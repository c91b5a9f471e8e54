"""The memory of a training in its plan: facts, lines for people, and a check for each card."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

from kit import console
from kit.report import Check
from training import cards as known_cards
from training.cards import Card
from training.memory import CUDA_CONTEXT
from training.memory_advice import MemoryCase, card_check, changes, too_large_for_all
from training.model_shape import ModelShape, of_config

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits")


def cards_or_usual(cards: Sequence[Card] | None) -> list[Card]:
    """The cards to show times for: those that were named or are here, else two usual ones."""
    return list(cards) if cards else known_cards.usual()


def cards_here() -> tuple[list[Card], list[Check]]:
    """(the cards of this machine, what is wrong with them), where it is one that trains (torch is
    installed); else ([], []).
    """
    return known_cards.look() if importlib.util.find_spec("torch") else ([], [])


def estimate_facts(case: MemoryCase, cards: Sequence[Card] | None) -> dict[str, Any]:
    """Memory by kind in bytes, and whether the total fits each card."""
    e = case.estimate
    dropout = dict(changes(case)).get("lora.lora_dropout=0")
    verdicts = {card.name: card.verdict(e.total) for card in cards_or_usual(cards)}
    return dataclasses.asdict(e) | {
        "total": e.total,
        "fits": {name: verdict != "does not fit" for name, verdict in verdicts.items()},
        "verdicts": verdicts,
        "dropout_costs": e.total - dropout.estimate.total if dropout else 0.0,
    }  # fmt: skip


def memory_checks(case: MemoryCase, cards: Sequence[Card] | None) -> list[Check]:
    """A check for the smallest card, or for all that are known, and what no estimate can say."""
    training, quantization = case.settings.training, case.settings.quantization
    checks: list[Check] = []
    if getattr(training, "fsdp", False):
        checks.append(_loaded_whole(case, cards))
    elif cards:
        checks.append(card_check(case, min(cards, key=lambda card: card.gigabytes)))
    else:
        checks += too_large_for_all(case)
    if quantization.load_in_8bit and training.gradient_checkpointing:
        checks.append(Check(
            "8-bit base", "warn",
            "bitsandbytes keeps its inputs, so gradient_checkpointing saves little here",
            "quantization.load_in_8bit=false, and load_in_4bit=true unless bfloat16 fits",
        ))  # fmt: skip
    model = case.model if isinstance(case.model, ModelShape) else of_config(case.model)
    experts = model.expert_parameters
    if experts and quantization.load_in_4bit:
        checks.append(Check(
            "experts", "warn",
            f"{experts / 1e9:.1f} billion parameters of fused experts stay in "
            f"{case.settings.model.dtype}: 4 bits do not reach them",
            "count on the memory above, or take a dense model",
        ))  # fmt: skip
    return checks


def _loaded_whole(case: MemoryCase, cards: Sequence[Card] | None) -> Check:
    """Whether a quantised base fits each GPU before FSDP spreads it; nothing else is estimated."""
    quantization = case.settings.quantization
    spread = Check("memory", "skip", "fsdp spreads the model: the estimate is for one GPU")
    if not cards or not (quantization.load_in_4bit or quantization.load_in_8bit):
        return spread
    card, needed = min(cards, key=lambda card: card.gigabytes), case.estimate.weights
    if card.verdict(needed + CUDA_CONTEXT) != "does not fit":
        return spread
    return Check(
        f"memory, {card.name}", "fail",
        f"each process loads the whole quantised base before fsdp spreads it: "
        f"{console.size(needed)} of {card.gigabytes:.0f} GB",
        "quantization.load_in_4bit=false (read once, then spread), or a larger card",
    )  # fmt: skip


def estimate_lines(e: dict[str, Any]) -> list[str]:
    """The estimate in words, for people."""
    parts = ", ".join(f"{name} {console.size(e[name])}" for name in PARTS if name in e)
    out = [f"memory, estimated: {console.size(e['total'])}{f' ({parts})' if parts else ''}"]
    if e.get("dropout_costs", 0) > e["total"] / 20:
        out.append(f"  of it for lora_dropout: {console.size(e['dropout_costs'])} (0 saves it)")
    for name, fits in e["fits"].items():
        time = e.get("time", {}).get(name)
        about = f", about {console.duration(time)}" if time is not None else ""
        verdict = e.get("verdicts", {}).get(name, "fits" if fits else "does not fit")
        out.append(f"  {name}: {verdict}{about if fits else ''}")
    return out + [f"  faster: {text}" for text in e.get("faster", ())]
