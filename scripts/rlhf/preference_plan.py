"""The plan of a reward model or an RLHF run: what it would do, and what is missing.

Needs the tokenizer and config.json, not torch: a laptop can plan for its host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from base_model import readiness
from kit import console
from kit.report import Check
from rlhf import algorithms, policies, preference_memory, preference_recipe
from rlhf.algorithms import PreferenceTask
from training import memory_checks, processes, setting_checks
from training import plan as sft
from training.cards import Card


def make(kind: str, settings, cards: Sequence[Card] | None = None) -> sft.TrainingPlan:
    """The plan of one kind of run. What is missing becomes a failed check.

    cards: the GPUs to compare with.
    """
    checks: list[Check] = []
    facts: dict[str, Any] = {"kind": kind}
    try:
        task = resolve(kind, settings, checks)
    except console.Misuse:
        raise
    except console.Problem:
        task = None  # checks has the reason
    if task:
        facts["model"] = task.settings.model.model_name_or_path
        facts["start"] = task.start.name if task.start else None
        facts["reward_model"] = task.reward_run.name if task.reward_run else None
        _data(task, facts, checks)
        _memory(task, facts, checks, cards)
    checks += [setting_checks.disk(settings), *setting_checks.tracker(settings.training.report_to)]
    return sft.TrainingPlan(facts, checks)


def resolve(kind: str, settings, checks: list[Check] | None = None) -> PreferenceTask:
    """The PreferenceTask with its models located and checked; nothing is loaded.

    Raises the first Problem; with `checks`, what is there and what is missing is added to them.
    """
    planning = checks is not None
    checks = [] if checks is None else checks
    start, run = None, None
    if kind != "reward":
        start = sft.attempt(
            checks, "start adapter", lambda: policies.start_of(settings), required=True
        )
        if start:
            checks.append(Check("start adapter", "ok", start.name))
    if kind != "reward" and policies.needs_reward_model(settings):
        run = sft.attempt(
            checks,
            "reward model",
            lambda: policies.reward_run(settings.reward_model_path),
            required=True,
        )
        policies.reward_settings(run)
        checks.append(Check("reward model", "ok", run.name))
        settings = settings.model_copy(update={"reward_model_path": run.name})
    settings = policies.with_base(settings, start)
    model = sft.attempt(checks, "base model", lambda: readiness.describe(settings), required=True)
    checks += readiness.checks(model, settings)
    if not planning:
        checks += setting_checks.packages(settings)
        readiness.refuse(checks)
    return PreferenceTask(kind, settings, start, run)


def _data(task: PreferenceTask, facts: dict[str, Any], checks: list[Check]) -> None:
    def count() -> bool:
        preference_recipe.read_rows(task)
        facts["steps"] = algorithms.steps(task, processes.promised())
        return True

    if not sft.attempt(checks, "data", count):
        return
    world_size = processes.promised()
    checks += readiness.of_tokenizer(task.tokenizer, readiness.describe(task.settings))
    facts["data"] = {name: coded.facts for name, coded in task.coded.items()}
    facts["world_size"] = world_size
    facts["prompts_a_step"] = algorithms.prompts_a_step(task, world_size)
    for name, coded in task.coded.items():
        what = "prompts" if task.generates else "pairs"
        counted = f"{len(coded.rows):,} {what}"
        lost = [f"{coded.long_prompts} with long prompts left out"] * bool(coded.long_prompts)
        cut = "cut" if task.kind == "dpo" else "left out"
        lost += [f"{coded.long_rows} above max_length {cut}"] * bool(coded.long_rows)
        if lost:
            fix = "raise data.max_prompt_length or max_length, or shorten those rows"
            checks.append(Check(f"{name} data", "warn", f"{counted}; {', '.join(lost)}", fix))
        else:
            checks.append(Check(f"{name} data", "ok", counted))
    if "validation" not in task.coded:
        fix = "set data.val_file: without it nothing tells whether the objective improved"
        checks.append(Check("validation data", "warn", "none", fix))


def _memory(task: PreferenceTask, facts: dict[str, Any], checks: list[Check], cards) -> None:
    """The peak on one GPU, with every copy of the base, against the cards."""
    case = preference_memory.case_of(task)
    estimate = sft.attempt(checks, "memory", lambda: memory_checks.estimate_facts(case, cards))
    if estimate is None:
        return
    copies = 1 + case.work.scorer + (task.kind == "ppo")
    facts["estimate"] = estimate | {"copies": copies}
    checks += memory_checks.memory_checks(case, cards)
    checks += setting_checks.on_card(task.settings, cards)
    checks += setting_checks.before_data(case.model, task.settings)
    if "steps" in facts:
        checks += setting_checks.after_data(case.model, task.settings, facts["steps"])


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
        copies = f["estimate"]["copies"]
        out.append(f"{copies} {'copy' if copies == 1 else 'copies'} of the base on each GPU")
        out += memory_checks.estimate_lines(f["estimate"])
    return out
