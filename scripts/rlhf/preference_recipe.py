"""Reward models, DPO, GRPO, RLOO and PPO as recipes of a training session."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from base_model import readiness
from kit import console, paths
from rlhf import algorithms, measure, policies, preference_memory, preference_rows
from rlhf.algorithms import PreferenceTask
from training import plan, run_folder, session, stopping
from training.memory_advice import MemoryCase

DANGERS = (
    "RLHF optimises a reward, not quality: the reward can rise while the answers get worse.",
    "It can undo what fine-tuning taught, break formats and tool calls, and lengthen every answer.",
    "Compare the result with the adapter you started from (eval.py) before you use it.",
)


class RolloutStopped(Exception):
    """Raised to leave PPOTrainer's loop after a signal, once the checkpoint is written."""


class PreferenceRecipe(session.TrainingRecipe):
    """One PreferenceTask as a session runs it."""

    shown = algorithms.SHOWN
    measured = True

    def __init__(self, task: PreferenceTask):
        super().__init__(task.settings)
        self.task, self.kind = task, task.kind
        self.can_resume = task.kind != "ppo"

    def prepare(self) -> None:
        read_rows(self.task)
        self.tokenizer = self.task.tokenizer
        base = readiness.describe(self.task.settings)
        readiness.refuse(readiness.of_tokenizer(self.tokenizer, base))
        if self.kind == "ppo":
            policies.check_same_tokens(self.tokenizer, self.task.reward_run)
            refuse_shared_padding(self.tokenizer)

    def counts(self) -> dict[str, Any]:
        return {name: coded.facts for name, coded in self.task.coded.items()}

    def inputs(self) -> dict[str, Any]:
        """The kind, and by hashes the start adapter and the reward model."""
        task = self.task
        facts: dict[str, Any] = {"kind": task.kind, "start": None, "reward_model": None}
        if task.start:
            facts["start"] = {"name": task.start.name} | policies.weights_hash(task.start.adapter)
        if task.reward_run:
            weights = policies.weights_hash(task.reward_run / "final")
            facts["reward_model"] = {"run": task.reward_run.name} | weights
        return facts

    def title(self) -> str:
        task = self.task
        source = task.start.name if task.start else task.settings.model.model_name_or_path
        return f"{task.kind} from {source}"

    def build(self, run: Path, recorders: list, world_size: int) -> Any:
        return algorithms.build(self.task, run, recorders, world_size)

    def train(self, trainer, checkpoint: Path | None, request: stopping.StopRequest) -> None:
        if self.kind != "ppo":
            super().train(trainer, checkpoint, request)
            return
        trainer.add_callback(stop_after_saving(request))
        with contextlib.suppress(RolloutStopped):
            trainer.train()

    def measure(self, trainer) -> dict[str, float]:
        return measure.objective(self.task, trainer)

    def before_saving(self, trainer) -> None:
        """Keep the trained adapter alone, without its frozen reference."""
        trainer.model = policy = algorithms.policy_of(trainer)
        if "ref" in policy.peft_config:
            policy.delete_adapter("ref")
        self.tokenizer.padding_side = "right"

    def summary(self, trainer, before: dict, after: dict) -> str:
        name = measure.NAMES[self.kind]
        if name not in after:
            return "; the objective was not measured (no val_file)"
        return f"; {name} {before[name]:.3f} -> {after[name]:.3f} on the validation rows"

    def memory_case(self) -> MemoryCase:
        return preference_memory.case_of(self.task)


def read_rows(task: PreferenceTask) -> None:
    """Read and encode the rows. Raises Problem for bad rows, and where none is left."""
    settings = task.settings
    task.tokenizer = policies.tokenizer_of(settings, task.start)
    files = {"train": settings.data.train_file, "validation": settings.data.val_file}
    for name, file in files.items():
        path = plan.data_file(file)
        if path is None:
            continue
        limit = settings.data.max_samples if name == "train" else None
        shown = Path(paths.show(path))
        task.rows[name] = preference_rows.read(shown, pairs=not task.generates, limit=limit)
        task.coded[name] = _encoded(task, name)
        most = None if task.generates else task.section.max_length
        longest = settings.data.max_prompt_length
        preference_rows.check(task.coded[name], shown, longest, most)


def _encoded(task: PreferenceTask, name: str) -> preference_rows.EncodedPreferences:
    longest, rows = task.settings.data.max_prompt_length, task.rows[name]
    if task.generates:
        return preference_rows.encode_prompts(task.tokenizer, rows, longest)
    dpo, most = task.kind == "dpo", task.section.max_length
    coded = preference_rows.encode_pairs(task.tokenizer, rows, longest, most, cut=dpo)
    return coded if dpo else preference_rows.for_reward(coded)


def refuse_shared_padding(tokenizer) -> None:
    """Misuse where PPO could not tell padding from the end of an answer."""
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise console.Misuse(
            "ppo needs a pad token that is not the end token, and this tokenizer has none",
            "use rloo or grpo, or give the tokenizer a pad token",
        )


def stop_after_saving(request: stopping.StopRequest) -> Any:
    """A callback that leaves PPO's own loop once the checkpoint of a stop is written."""
    from transformers import TrainerCallback

    class StopAfterSaving(TrainerCallback):
        def on_save(self, args, state, control, **_):
            if request.agreed:
                raise RolloutStopped

    return StopAfterSaving()


def keep_what_began(settings, run: Path):
    """The settings with the models that a resumed run began with, where they are left open."""
    began = run_folder.read_config(run)
    changes = {}
    if settings.sft_model_path is None:
        changes["sft_model_path"] = began.get("sft_model_path")
    if settings.reward_model_path == "latest":
        changes["reward_model_path"] = began.get("reward_model_path")
    if settings.model.model_name_or_path is None:
        name = (began.get("model") or {}).get("model_name_or_path")
        changes["model"] = settings.model.model_copy(update={"model_name_or_path": name})
    return settings.model_copy(update=changes)


def result(run: Path) -> dict[str, Any]:
    """What a completed run's command prints with --json."""
    status = run_folder.read_status(run)
    names = {"state": "state", "kind": "kind", "steps": "step", "objective": "objective"}
    return {"run": str(run)} | {name: status.get(key) for name, key in names.items()}
