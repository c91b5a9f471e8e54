"""What a rehearsal at full size measured, in lines for people: no number that was not measured."""

from __future__ import annotations

import math
from typing import Any

from kit import console

_COUNTS = ("rows", "longest", "max_length", "steps", "whole_steps")
_FLAGS = ("stand_in", "resumed", "evaluated")
_MEASURES = ("seconds_per_step", "tokens_per_second", "whole_seconds", "estimated_seconds")
_BYTES = ("need", "estimated", "estimated_longest", "card_bytes")


def checked(facts: dict[str, Any]) -> dict[str, Any]:
    """A host's facts, each of its type. ValueError names the one that is not."""
    model, memory = facts.get("model"), facts.get("memory", {})
    if not isinstance(model, dict) or not isinstance(memory, dict):
        raise ValueError("no facts of a rehearsal")
    groups = (
        (facts, _COUNTS, _is_count, True), (facts, _FLAGS, _is_flag, True),
        (facts, _MEASURES, _is_measure, False), (facts, ("card",), _is_text, True),
        (model, ("parameters",), _is_count, True), (model, ("model_type",), _is_text, True),
        (memory, _BYTES, _is_measure, bool(memory)),
    )  # fmt: skip
    for values, names, fits, needed in groups:
        for name in names:
            if (needed or name in values) and not fits(values.get(name)):
                raise ValueError(f"no {name} of the expected type")
    return facts


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 50


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 200


def _is_measure(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value < 1e18


def lines(facts: dict[str, Any], rate: float | None) -> list[str]:
    """The result; rate: what an hour costs, None where it is not known."""
    out = [_model(facts), _work(facts), *_memory(facts)]
    return out + _time(facts, rate)


def _model(facts: dict[str, Any]) -> str:
    model = facts["model"]
    where = "a stand-in, which computes nothing" if facts["stand_in"] else facts["card"]
    words = (
        f"model    {model['model_type']}, {model['parameters'] / 1e9:.2f} billion random weights"
    )
    return f"{words}, on {where}"


def _work(facts: dict[str, Any]) -> str:
    done = [f"{facts['steps']} steps of the {facts['rows']:,} longest rows ({facts['longest']:,} "
            "tokens at most)", "a checkpoint"]  # fmt: skip
    done.append("resumed" if facts["resumed"] else "not resumed: it was done too soon")
    done.append("evaluated" if facts["evaluated"] else "no validation rows")
    return f"done     {', '.join(done)}"


def _memory(facts: dict[str, Any]) -> list[str]:
    memory = facts.get("memory")
    if not memory:
        return ["memory   not measured"]
    need, estimated = memory["need"], memory["estimated_longest"]
    how = "counted by torch's allocator on the stand-in" if facts["stand_in"] else "measured"
    card = console.size(memory["card_bytes"])
    out = [
        f"memory   {console.size(need)} of {card} at the peak, {how}; "
        f"{console.size(estimated)} estimated ({need / estimated:.0%} of it)"
    ]
    if facts["longest"] < facts["max_length"]:
        whole = console.size(memory["estimated"])
        out.append(
            f"         rows of {facts['max_length']:,} tokens would take {whole} (estimated)"
        )
    return out


def _time(facts: dict[str, Any], rate: float | None) -> list[str]:
    steps = f"{facts['whole_steps']:,} steps"
    estimated = facts.get("estimated_seconds")
    estimate = f"; {console.duration(estimated)} estimated" if estimated else ""
    if facts["stand_in"]:
        return [
            f"time     not measured: a stand-in has no speed (the whole run: {steps}{estimate})"
        ]
    whole = facts.get("whole_seconds")
    if not whole:
        return [f"time     not measured: too few steps (the whole run: {steps}{estimate})"]
    cost = f", {rate * whole / 3600:.2f} at {rate:g} an hour" if rate else ", its price is unknown"
    return [
        f"speed    {facts['tokens_per_second']:,.0f} tokens/s, {facts['seconds_per_step']:.2f} s a "
        "step, measured",
        f"whole    {steps}: {console.duration(whole)}{cost}{estimate}",
    ]
