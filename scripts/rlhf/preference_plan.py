"""The plan of a reward model or an RLHF run: what it would do, and what is missing.

Needs the tokenizer and config.json, not torch: a laptop can plan for its host.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from base_model import description, readiness
from kit import console
from kit.report import Check, failed
from rlhf import algorithms, policies, preference_recipe
from rlhf.algorithms import PreferenceTask
from training import memory
from training import plan as sft

COPIES = {"reward": 1, "dpo": 1, "grpo": 1, "rloo": 1, "ppo": 2}  # of the base, less the scorer's


def make(kind: str, settings) -> sft.TrainingPlan:
    """The plan of one kind of run. What is missing becomes a failed check."""
    checks: list[Check] = []
    facts: dict[str, Any] = {"kind": kind}
    try:
        task = resolve(kind, settings, checks)
    except console.Misuse:
        raise
    except console.Problem:
        task = None  # said in checks
    if task:
        facts["model"] = task.settings.model.model_name_or_path
        facts["start"] = task.start.name if task.start else None
        facts["reward_model"] = task.reward_run.name if task.reward_run else None
        _data(task, facts, checks)
        _memory(task, facts, checks)
    checks += [sft.disk(settings), *sft.tracker(settings.training.report_to)]
    return sft.TrainingPlan(facts, checks)


def resolve(kind: str, settings, checks: list[Check] | None = None) -> PreferenceTask:
    """The PreferenceTask with the models found and checked, nothing loaded.

    Raises the first Problem; with `checks`, what is found and what is missing is added to them.
    """
    planning = checks is not None
    checks = [] if checks is None else checks
    start, run = None, None
    if kind != "reward":
        start = _found(checks, "start adapter", lambda: policies.start_of(settings))
        if start:
            checks.append(Check("start adapter", "ok", start.name))
    if kind != "reward" and policies.needs_reward_model(settings):
        run = _found(
            checks, "reward model", lambda: policies.reward_run(settings.reward_model_path)
        )
        policies.reward_settings(run)
        checks.append(Check("reward model", "ok", run.name))
        settings = settings.model_copy(update={"reward_model_path": run.name})
    settings = policies.with_base(settings, start)
    model = _found(checks, "base model", lambda: readiness.describe(settings))
    checks += readiness.checks(model, settings)
    if not planning:
        readiness.refuse(checks)
    return PreferenceTask(kind, settings, start, run)


def _found(checks: list[Check], name: str, action) -> Any:
    """The action's result; its Problem becomes a failed check, and is raised all the same."""
    try:
        return action()
    except console.Misuse:
        raise
    except console.Problem as problem:
        checks.append(failed(name, problem))
        raise


def _data(task: PreferenceTask, facts: dict[str, Any], checks: list[Check]) -> None:
    def count() -> bool:
        preference_recipe.read_rows(task)
        facts["steps"] = algorithms.steps(task, int(os.environ.get("WORLD_SIZE", "1")))
        return True

    if not sft.attempt(checks, "data", count):
        return
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    checks += readiness.of_tokenizer(task.tokenizer, readiness.describe(task.settings))
    facts["data"] = {name: coded.facts for name, coded in task.coded.items()}
    facts["world_size"] = world_size
    facts["prompts_a_step"] = algorithms.prompts_a_step(task, world_size)
    for name, coded in task.coded.items():
        what = "prompts" if task.generates else "pairs"
        found = f"{len(coded.rows):,} {what}"
        lost = [f"{coded.long_prompts} with long prompts left out"] * bool(coded.long_prompts)
        cut = "cut" if task.kind == "dpo" else "left out"
        lost += [f"{coded.long_rows} above max_length {cut}"] * bool(coded.long_rows)
        if lost:
            fix = "raise data.max_prompt_length or max_length, or shorten those rows"
            checks.append(Check(f"{name} data", "warn", f"{found}; {', '.join(lost)}", fix))
        else:
            checks.append(Check(f"{name} data", "ok", found))
    if "validation" not in task.coded:
        fix = "set data.val_file: without it nothing tells whether the objective improved"
        checks.append(Check("validation data", "warn", "none", fix))


def _memory(task: PreferenceTask, facts: dict[str, Any], checks: list[Check]) -> None:
    """An estimate: the trainer's, with twice the rows for pairs, and every copy of the base."""
    from config.schemas.training import TrainingSection

    settings = task.settings
    config = description.config(settings.model.model_name_or_path)
    pairs = 1 if task.generates else 2
    longest = (
        settings.data.max_prompt_length + task.longest_answer
        if task.generates
        else task.section.max_length
    )
    t = settings.training
    training = TrainingSection(
        per_device_train_batch_size=t.per_device_train_batch_size * pairs,
        max_length=longest,
        gradient_checkpointing=t.gradient_checkpointing,
        optim=t.optim,
        bf16=t.bf16,
        fp16=t.fp16,
    )
    parts = {"model": settings.model, "lora": settings.lora, "quantization": settings.quantization}
    one = memory.estimate(config, SimpleNamespace(training=training, **parts))
    copies = COPIES[task.kind] + (task.reward_run is not None)
    total = one.total + (copies - 1) * one.weights * 1.1
    if task.kind == "reward":  # its head gives one number, not one for each word
        total -= one.logits * 1.1
    facts["estimate"] = {
        "total": total,
        "copies": copies,
        "fits": {name: total < size * memory.GB * 0.95 for name, (size, _) in memory.GPUS.items()},
    }


def lines(plan: sft.TrainingPlan) -> list[str]:
    """The plan in words, for people."""
    f = plan.facts
    out = []
    if "model" in f:
        out.append(f"{f['kind']} from {f['start'] or f['model']}")
    if "steps" in f:
        out.append(
            f"{f['steps']:,} steps of {f['prompts_a_step']} rows, {f['world_size']} process(es)"
        )
    if "estimate" in f:
        e = f["estimate"]
        fits = ", ".join(f"{n}: {'fits' if ok else 'does not fit'}" for n, ok in e["fits"].items())
        copies = "copy" if e["copies"] == 1 else "copies"
        out.append(
            f"memory, roughly: {console.size(e['total'])} with {e['copies']} {copies} of the base; "
            f"{fits}"
        )
    return out
