"""The plan of a training run: what it would do, with which data, how long, and what is missing.

Needs the tokenizer and config.json, not torch: a laptop can plan for its host.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base_model import architectures, readiness
from base_model import tokenizer as base_tokenizer
from base_model.description import Description
from kit import console, paths
from kit.report import Check, failed
from training import (
    encoding,
    model_shape,
    processes,
    setting_checks,
    speed,
    speed_choices,
    step_time,
)
from training.cards import Card
from training.memory import Workload
from training.memory_advice import MemoryCase
from training.memory_checks import (
    cards_or_usual,
    estimate_facts,
    estimate_lines,
    memory_checks,
)


@dataclasses.dataclass
class TrainingPlan:
    """What a run would do; `checks` says what is missing."""

    facts: dict[str, Any]
    checks: list[Check]

    @property
    def missing(self) -> list[Check]:
        return [c for c in self.checks if c.status == "fail"]


def data_file(name: str | None) -> Path | None:
    """A data file of the configuration: relative names lie in the work folder."""
    return paths.workdir() / name if name else None


def steps(rows: int, training, world_size: int = 1) -> tuple[int, int]:
    """(optimizer steps a run takes, steps an epoch), as transformers' Trainer counts them."""
    batches = math.ceil(rows / (training.per_device_train_batch_size * world_size))
    epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    total = training.max_steps if training.max_steps > 0 else epoch * training.num_train_epochs
    return math.ceil(total), epoch


def trained_rows(encoded: encoding.EncodedRows, training) -> int:
    """Rows that make the batches: those of the file, or about as many as packing makes of them."""
    if not training.packing:
        return len(encoded.rows)
    return math.ceil(encoded.tokens / training.max_length)


def check(settings) -> None:
    """Problem or Misuse for what would end a training later: base, layers, settings, packages."""
    model = readiness.require(settings)
    check_disk(settings)
    readiness.refuse(setting_checks.before_data(model_shape.of_model(model), settings))


def check_disk(settings) -> None:
    """Problem where less space is free than safety.min_free_disk_gb."""
    readiness.refuse([setting_checks.disk(settings)])


def encode_all(settings, tokenizer) -> dict[str, encoding.EncodedRows]:
    """{'train': …, 'validation': …} of the configured files, checked.

    A validation file without rows (split.val_fraction=0) is no validation.
    """
    training, data = settings.training, settings.data
    assistant_only = training.assistant_only_loss and training.completion_only_loss is not False
    result = {}
    for name, file in (
        ("train", data_file(data.train_file)),
        ("validation", data_file(data.val_file)),
    ):
        if file is None:
            continue
        if not file.is_file():
            raise console.Problem(f"{paths.show(file)}: no such data file", "make data writes it")
        if name == "validation" and not file.read_bytes()[: 1 << 16].strip():
            continue
        limit = data.max_samples if name == "train" else None
        coded = encoding.encode_file(file, tokenizer, training.max_length, assistant_only, limit)
        encoding.check(coded, file, training.max_length)
        result[name] = coded
    return result


def make(
    settings, world_size: int | None = None, cards: Sequence[Card] | None = None
) -> TrainingPlan:
    """The TrainingPlan of a TrainingConfig. A missing model or file becomes a failed check.

    cards: the GPUs to compare with; None: those of this machine, if it is one that trains.
    """
    world_size = world_size or processes.promised()
    checks: list[Check] = []
    facts: dict[str, Any] = {"method": method(settings), "model": settings.model.model_name_or_path}
    model = attempt(checks, "base model", lambda: readiness.describe(settings))
    if model:
        checks += readiness.checks(model, settings)
        case = attempt(checks, "memory", lambda: supervised_case(model, settings))
        if case:
            facts["estimate"] = estimate_facts(case, cards)
            checks += memory_checks(case, cards)
            checks += setting_checks.before_data(case.model, settings)
        checks += setting_checks.on_card(settings, cards)
        tokenizer = attempt(checks, "tokenizer", lambda: base_tokenizer.configured(settings.model))
        if tokenizer:
            checks += readiness.of_tokenizer(tokenizer, model)
            coded = attempt(checks, "data", lambda: encode_all(settings, tokenizer))
            if coded:
                checks += _describe(coded, settings, facts, world_size)
                checks += against_base(coded, tokenizer, model)
                checks += _choose_speed(model, settings, coded["train"], facts, cards)
                if case:
                    checks += setting_checks.after_data(case.model, settings, facts["steps"])
                    _add_times(case.model, settings, coded["train"], facts, cards)
    checks += [setting_checks.disk(settings), *setting_checks.tracker(settings.training.report_to)]
    return TrainingPlan(facts, checks)


def against_base(coded, tokenizer, model) -> list[Check]:
    """The encoded rows against the base model and its chat template."""
    rows = [row["input_ids"] for e in coded.values() for row in e.rows]
    largest = max(map(max, rows), default=0)
    faults = sum((e.faults for e in coded.values()), collections.Counter())
    read = sum(e.read - e.left_out.total() for e in coded.values())
    checks = readiness.of_rows(largest, [len(ids) for ids in rows], tokenizer, model)
    control = sum((e.control for e in coded.values()), collections.Counter())
    return checks + readiness.of_faults(faults, read) + readiness.of_control_tokens(control)


def supervised_case(model: Description, settings) -> MemoryCase:
    """What the memory of a supervised training depends on.

    Problem where config.json does not give the sizes.
    """
    t = settings.training
    padded = not t.packing and t.per_device_train_batch_size > 1
    work = Workload(rows=t.per_device_train_batch_size, length=t.max_length, padded=padded)
    return MemoryCase(model_shape.of_model(model), settings, work)


def method(settings) -> str:
    q = settings.quantization
    if q.load_in_4bit:
        return f"QLoRA ({q.bnb_4bit_quant_type}, {q.bnb_4bit_compute_dtype})"
    return "LoRA (8-bit base)" if q.load_in_8bit else f"LoRA ({settings.model.dtype})"


def attempt(checks: list[Check], name: str, action, required: bool = False):
    """The action's result; None where it raised a Problem, which becomes a failed check.

    required: nothing can follow without it, so the Problem is raised all the same.
    """
    try:
        return action()
    except console.Misuse:
        raise
    except console.Problem as problem:
        checks.append(failed(name, problem))
        if required:
            raise
        return None


def _describe(coded, settings, facts: dict[str, Any], world_size: int) -> list[Check]:
    t = settings.training
    rows = trained_rows(coded["train"], t)
    total, epoch = steps(rows, t, world_size)
    batch = t.per_device_train_batch_size * t.gradient_accumulation_steps * world_size
    facts |= {
        "world_size": world_size,
        "trained_rows": rows,
        "steps": total,
        "steps_per_epoch": epoch,
        "global_batch_size": batch,
        "tokens": int(total * batch * coded["train"].tokens / rows),
        "data": {
            name: {
                "rows": len(e.rows),
                "tokens": e.tokens,
                "supervised_tokens": e.supervised,
                "cut": e.cut,
                "dropped": e.unsupervised,
                "keys_not_used": dict(e.unused),
                "left_out": dict(e.left_out),
            }
            for name, e in coded.items()
        },
    }
    checks = [_data_check(name, e) for name, e in coded.items()]
    if settings.data.val_file and "validation" not in coded:
        checks.append(
            Check("validation data", "skip", f"{settings.data.val_file} has no rows: no validation")
        )
    return checks


def _data_check(name: str, coded: encoding.EncodedRows) -> Check:
    counted = f"{len(coded.rows):,} rows, {coded.tokens:,} tokens, {coded.supervised:,} with loss"
    for what, counts in (("left out", coded.left_out), ("keys not used", coded.unused)):
        if counts:
            counted += f"; {what}: " + ", ".join(
                f"{name} {n:,}" for name, n in counts.most_common()
            )
    problems = {
        f"{coded.cut} cut at max_length": coded.cut,
        f"{coded.unsupervised} dropped without loss": coded.unsupervised,
        f"{coded.unterminated} without an end token": coded.unterminated,
    }
    listed = ", ".join(text for text, count in problems.items() if count)
    if not listed:
        return Check(f"{name} data", "ok", counted)
    fix = "raise training.max_length, or shorten those rows in data_prep"
    return Check(f"{name} data", "warn", f"{counted}; {listed}", fix)


def _choose_speed(model: Description, settings, train, facts, cards) -> list[Check]:
    """Note what is chosen for speed; a failed check for what cannot be had."""
    lengths = [len(row["input_ids"]) for row in train.rows]
    job = speed_choices.job(model.model_type, settings, lengths, facts["world_size"])
    choices = speed.choose(speed_choices.planned(cards or ()), job)
    facts["speed"] = speed_choices.facts(choices)
    return speed_choices.checks(choices, settings)


def _add_times(shape, settings, train, facts: dict[str, Any], cards) -> None:
    """Seconds of the whole run on each card, the padding, and what would make it faster."""
    t = settings.training
    lengths = [len(row["input_ids"]) for row in train.rows]
    share = train.supervised / max(train.tokens, 1)
    epochs = facts["steps"] / facts["steps_per_epoch"] / facts["world_size"]
    estimate, bound = facts["estimate"], 0.0
    step = facts["global_batch_size"] if facts["speed"]["group_by_length"]["on"] else 0
    estimate["time"] = {}
    estimate["assumed_cards"] = not cards  # no card is named or here: two usual ones are shown
    for card in cards_or_usual(cards):
        if card.tflops:
            rate = card.tflops
            one, bound = step_time.epoch_seconds(shape, settings, lengths, share, rate, step)
            estimate["time"][card.name] = one * epochs
    waste = 0.0
    if not t.packing and not facts["speed"]["padding_free"]["on"]:
        waste = step_time.padding_share(lengths, t.per_device_train_batch_size, t.seed, step)
    estimate["padding"] = waste
    packs = architectures.keeps_packed_rows_apart(shape.model_type) is not False
    estimate["faster"] = step_time.advice(waste, bound, settings, packs)


def lines(plan: TrainingPlan) -> list[str]:
    """The plan in words, for people."""
    f = plan.facts
    out = [f"{f['method']} of {f['model']}"]
    if "steps" in f:
        out.append(
            f"{f['steps']:,} steps of {f['global_batch_size']} rows, "
            f"{f['world_size']} process(es), {f['steps_per_epoch']:,} an epoch, "
            f"{f['tokens']:,} tokens"
        )
    out += estimate_lines(f["estimate"]) if "estimate" in f else []
    return out + (speed_choices.lines(f["speed"]) if "speed" in f else [])
