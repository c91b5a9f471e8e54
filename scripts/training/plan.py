"""The plan of a training run: what it would do, with which data, how long, and what is missing.

Needs the tokenizer and config.json, not torch: a laptop can plan for its host.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import math
import os
import shutil
from pathlib import Path
from typing import Any

from base_model import readiness
from base_model import tokenizer as base_tokenizer
from kit import console, paths
from kit.report import Check, failed
from training import encoding, memory


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
    """Problem or Misuse for what would end a training later: no base, other layers, a full disk."""
    readiness.require(settings)
    check_disk(settings)


def check_disk(settings) -> None:
    """Problem where less space is free than safety.min_free_disk_gb."""
    found = disk(settings)
    if found.status == "fail":
        raise console.Problem(f"disk: {found.found}", found.fix)


def encode_all(settings, tokenizer) -> dict[str, encoding.EncodedRows]:
    """{'train': …, 'validation': …} of the configured files, checked."""
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
        limit = data.max_samples if name == "train" else None
        coded = encoding.encode_file(file, tokenizer, training.max_length, assistant_only, limit)
        encoding.check(coded, file, training.max_length)
        result[name] = coded
    return result


def make(settings, world_size: int | None = None) -> TrainingPlan:
    """The TrainingPlan of a TrainingConfig. A missing model or file becomes a failed check."""
    world_size = world_size or int(os.environ.get("WORLD_SIZE", "1"))
    checks: list[Check] = []
    facts: dict[str, Any] = {"method": method(settings), "model": settings.model.model_name_or_path}
    model = attempt(checks, "base model", lambda: readiness.describe(settings))
    if model:
        config = model.config
        checks += readiness.checks(model, settings)
        facts["estimate"] = estimate_facts(config, settings)
        tokenizer = attempt(checks, "tokenizer", lambda: base_tokenizer.configured(settings.model))
        if tokenizer:
            checks += readiness.of_tokenizer(tokenizer, model)
            coded = attempt(checks, "data", lambda: encode_all(settings, tokenizer))
            if coded:
                checks += _describe(coded, settings, facts, world_size)
                checks += against_base(coded, tokenizer, model)
                facts["estimate"]["time"] = _times(config, settings, facts)
    checks += [disk(settings), *tracker(settings.training.report_to)]
    return TrainingPlan(facts, checks)


def against_base(coded, tokenizer, model) -> list[Check]:
    """The encoded rows against the base model and its chat template."""
    rows = [row["input_ids"] for e in coded.values() for row in e.rows]
    largest = max(map(max, rows), default=0)
    faults = sum((e.faults for e in coded.values()), collections.Counter())
    read = sum(e.read for e in coded.values())
    checks = readiness.of_rows(largest, [len(ids) for ids in rows], tokenizer, model)
    return checks + readiness.of_faults(faults, read)


def method(settings) -> str:
    q = settings.quantization
    if q.load_in_4bit:
        return f"QLoRA ({q.bnb_4bit_quant_type}, {q.bnb_4bit_compute_dtype})"
    return "LoRA (8-bit base)" if q.load_in_8bit else f"LoRA ({settings.model.dtype})"


def attempt(checks: list[Check], name: str, action):
    try:
        return action()
    except console.Misuse:
        raise
    except console.Problem as problem:
        checks.append(failed(name, problem))
        return None


def _describe(coded, settings, facts: dict[str, Any], world_size: int) -> list[Check]:
    train = coded["train"]
    rows = trained_rows(train, settings.training)
    total, epoch = steps(rows, settings.training, world_size)
    t = settings.training
    facts |= {
        "world_size": world_size,
        "trained_rows": rows,
        "steps": total,
        "steps_per_epoch": epoch,
        "global_batch_size": t.per_device_train_batch_size
        * t.gradient_accumulation_steps
        * world_size,
        "data": {
            name: {
                "rows": len(e.rows),
                "tokens": e.tokens,
                "supervised_tokens": e.supervised,
                "cut": e.cut,
                "dropped": e.unsupervised,
            }
            for name, e in coded.items()
        },
    }
    checks = []
    for name, e in coded.items():
        found = f"{len(e.rows):,} rows, {e.tokens:,} tokens, {e.supervised:,} with loss"
        problems = {
            f"{e.cut} cut at max_length": e.cut,
            f"{e.unsupervised} dropped without loss": e.unsupervised,
            f"{e.unterminated} without an end token": e.unterminated,
        }
        said = ", ".join(text for text, count in problems.items() if count)
        if said:
            fix = "raise training.max_length, or shorten those rows in data_prep"
            checks.append(Check(f"{name} data", "warn", f"{found}; {said}", fix))
        else:
            checks.append(Check(f"{name} data", "ok", found))
    return checks


def estimate_facts(config: dict[str, Any], settings) -> dict[str, Any]:
    """Memory by kind in bytes, and whether the total fits each known card."""
    e = memory.estimate(config, settings)
    return dataclasses.asdict(e) | {
        "total": e.total,
        "fits": {name: e.fits(size) for name, (size, _) in memory.GPUS.items()},
    }


def _times(config, settings, facts: dict[str, Any]) -> dict[str, float]:
    per_row = facts["data"]["train"]["tokens"] / facts["trained_rows"]
    tokens = int(facts["steps"] * facts["global_batch_size"] * per_row)
    facts["tokens"] = tokens
    checkpointing = settings.training.gradient_checkpointing
    return {
        name: memory.seconds(config, tokens, tflops, checkpointing)
        for name, (_, tflops) in memory.GPUS.items()
    }


def disk(settings) -> Check:
    folder = paths.folder("runs")
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{console.size(free)} free at {paths.show(folder)}"
    needed = settings.safety.min_free_disk_gb
    if free < needed * (1 << 30):
        fix = "free space there, or lower safety.min_free_disk_gb"
        return Check("disk", "fail", f"{found}, {needed:g} GB wanted", fix)
    return Check("disk", "ok", found)


def tracker(name: str) -> list[Check]:
    """Whether the package that `report_to` names is there. wandb is in no lock of ours."""
    if name == "none" or importlib.util.find_spec(name):
        return []
    training_stack = importlib.util.find_spec("torch") is not None
    if not training_stack and name != "wandb":
        return []  # a laptop that plans: the host has it
    fix = f"uv pip install --python .venv-remote/bin/python {name} there, or report_to: trackio"
    found = f"{name} is not installed" if training_stack else f"{name} must be added on the host"
    return [Check("report_to", "fail" if training_stack else "warn", found, fix)]


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
    if "estimate" in f:
        e = f["estimate"]
        parts = ", ".join(
            f"{name} {console.size(e[name])}"
            for name in ("weights", "adapter", "gradients", "optimizer", "activations", "logits")
        )
        out.append(f"memory, estimated: {console.size(e['total'])} ({parts})")
        for name, fits in e["fits"].items():
            time = e.get("time", {}).get(name)
            about = f", about {console.duration(time)}" if time is not None else ""
            out.append(f"  {name}: {'fits' + about if fits else 'does not fit'}")
    return out
