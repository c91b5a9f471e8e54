"""Tokens per second of CPU that one engine makes for rows of one adapter, and of several mixed."""

from __future__ import annotations

import time
from unittest import mock

from support.engine_desk import Desk, lora_model

KINDS = ("one adapter", "two mixed", "two mixed by PEFT's hooks")


def desk_of(kind: str, rows: int) -> Desk:
    """An engine on a miniature of its own; the last kind without our groups."""
    from serving.grouped_lora import GroupedLora

    tokenizer, model = lora_model("llama")
    if kind != KINDS[-1]:
        return Desk(tokenizer, model, rows=rows)
    with mock.patch.object(GroupedLora, "install", lambda model: None):
        return Desk(tokenizer, model, rows=rows)


def measure(rounds: int, rows: int = 16, tokens: int = 48) -> dict[str, list[float]]:
    """{kind: tokens per second of CPU of each round}, in turns in this one process."""
    desks = {kind: desk_of(kind, rows) for kind in KINDS}
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):  # the first warms up
        for kind, desk in desks.items():
            names = ("a0", "a0") if kind == KINDS[0] else ("a0", "a1")
            answers = [desk.answer([11 + i, 12], names[i % 2], tokens) for i in range(rows)]
            began = time.process_time()
            desk.engine.submit(answers)
            desk.finish(answers)
            if number:
                rates[kind].append(rows * tokens / (time.process_time() - began))
    for desk in desks.values():
        desk.engine.close()
    return rates
