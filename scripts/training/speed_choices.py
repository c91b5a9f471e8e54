"""The choices of speed.py for a plan and for a run: this machine's facts, checks and lines."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from kit import console
from kit.report import Check
from training.processes import promised
from training.speed import ON_CPU, Machine, SpeedCase, SpeedChoice
from training.step_time import padding_share

USED_OF = {"flash_attn": "flash_attn", "liger_kernel": "liger_kernel.transformers"}
UNMEASURED = "speed: unmeasured on a GPU; make prove-gpu measures a card"


def checks(choices: Sequence[SpeedChoice], settings) -> list[Check]:
    """A failed check for each switch that says on where that cannot be."""
    return [
        Check(f"speed.{c.option}", "fail", f"on is asked for, and {c.reason}",
              c.fix or f"speed.{c.option}=auto takes it where it can be")
        for c in choices
        if getattr(settings.speed, c.option, "auto") == "on" and not c.possible
    ]  # fmt: skip


def facts(choices: Sequence[SpeedChoice]) -> dict[str, dict[str, Any]]:
    """The choices as they stand in a plan."""
    return {choice.option: choice.facts for choice in choices}


def lines(made: dict[str, dict[str, Any]]) -> list[str]:
    """A plan's choices for people: a line each; one for all where a CPU trains."""
    if all(facts["on"] is False and facts["reason"] == ON_CPU for facts in made.values()):
        return ["speed: nothing is changed on a CPU"]
    return [UNMEASURED, *(f"  {SpeedChoice(name, **facts).line}" for name, facts in made.items())]


def keep_order(choices: Sequence[SpeedChoice], began: dict[str, Any]) -> list[SpeedChoice]:
    """The choices of a resumed run: its rows come in the order in which it began ({}: random)."""
    on = bool(began.get("group_by_length"))
    return [
        dataclasses.replace(c, on=on, reason="as the run began")
        if c.option == "group_by_length" and c.on != on else c
        for c in choices
    ]  # fmt: skip


def job(model_type: str, settings: Any, lengths: Sequence[int], processes: int = 0) -> SpeedCase:
    """The SpeedCase of rows with these lengths. processes: 0 for those of the launcher."""
    t = settings.training
    rows = t.per_device_train_batch_size
    processes = processes or promised()
    parts = t.gradient_accumulation_steps * processes
    waste = padding_share(lengths, rows, t.seed)
    grouped = padding_share(lengths, rows, t.seed, rows * parts)
    return SpeedCase(model_type, settings, waste, grouped, parts)


def here() -> Machine:
    """This machine, in a process that trains."""
    import torch

    gpu = torch.cuda.is_available()
    ampere = gpu and torch.cuda.get_device_capability() >= (8, 0)
    return Machine(gpu, ampere, frozenset(filter(_imports, installed())) if gpu else frozenset())


def _imports(package: str) -> bool:
    """Whether a package that lies here can be used: it may be built for another torch."""
    try:
        importlib.import_module(USED_OF[package])
    except Exception as error:
        console.warn(f"{package} does not start ({console.first_line(error)}): it is not used")
        return False
    return True


def planned(cards: Sequence[Any]) -> Machine:
    """The machine of a plan: with `cards`; without torch here it is a host that is not known."""
    ampere = all(card.bf16 for card in cards)
    if importlib.util.find_spec("torch") is None:
        return Machine(True, ampere)
    return Machine(bool(cards), ampere, installed())


def installed() -> frozenset[str]:
    """Which packages of the table are importable here."""
    return frozenset(name for name in USED_OF if importlib.util.find_spec(name))
