"""The manager's RLHF: a reward model where the algorithm needs one, then RLHF from the adapter."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kit import paths
from kit.report import Check
from training import run_folder
from workflow.stages import Stage
from workflow.task import (
    Task,
    adapter_file,
    base_hash,
    check_file,
    data_file,
    file_hash,
    run_is_complete,
    run_trainer,
)


class RlhfTask(Task):
    """A reward model where the algorithm needs one, then RLHF from the LoRA adapter."""

    name = "rlhf"

    def skip_reason(self) -> str:
        return "" if self.settings.enabled else "disabled (enabled: false in rlhf.yaml)"

    def start_adapter(self) -> str | None:
        """The adapter to start from: named in rlhf.yaml, by --run, or that of the lora task."""
        named = self.settings.sft_model_path
        return named or self.args.run or self.tasks["lora"].result.get("run")

    def own_reward_model(self) -> bool:
        """Whether this task trains a reward model itself."""
        from rlhf.policies import needs_reward_model

        return needs_reward_model(self.settings) and self.settings.reward_model_path == "latest"

    def inputs(self) -> dict[str, str]:
        data, start = self.settings.data, self.start_adapter()
        return {
            "config": self.config_hash(),
            "train_file": file_hash(data_file(data.train_file)),
            "val_file": file_hash(data_file(data.val_file)),
            "adapter": file_hash(adapter_file(start)) or start if start else "",
        }

    def checks(self) -> list[Check]:
        checks, data = [self.check_python()], self.settings.data
        fix = "give data_prep preference rows (prompt, chosen, rejected)"
        if not self.tasks["data_prep"].will_run():
            for key in ("train_file", "val_file"):
                if path := data_file(getattr(data, key)):
                    checks.append(check_file(self.name, key, path, fix))
        if not self.start_adapter() and "lora" not in self.args.chosen:
            fix = "--stage lora first, or --run RUN, or sft_model_path in rlhf.yaml"
            checks.append(Check("rlhf: adapter", "fail", "no adapter to start from", fix))
        if not self.settings.enabled:
            status = "fail" if self.args.confirm else "warn"
            fix = "enabled: true there, or --set rlhf:enabled=true; read the warnings first"
            checks.append(Check("rlhf: opt-in", status, f"{self.config} says enabled: false", fix))
        return checks

    def result_exists(self) -> bool:
        return run_is_complete(self.result.get("run"))

    def plan(self, stage: Stage) -> dict[str, Any]:
        start, plans = self.start_adapter(), {}
        adapter = ("--adapter", start) if start else ()
        if self.own_reward_model():
            words = ("--dry-run", "--json", *self._base_option())
            plans["reward"] = stage.json(self.command("reward_model.py", *words))["plan"]
        else:
            words = ("--dry-run", "--json", *adapter)
            plans["policy"] = stage.json(self.command("ppo_trainer.py", *words))["plan"]
        steps = ", ".join(f"{name} {plan['steps']:,} steps" for name, plan in plans.items())
        stage.set_fact(f"{self.settings.algorithm} from {start or 'the base'}: {steps}")
        return plans

    def _base_option(self) -> tuple[str, ...]:
        """--set that gives the reward model the adapter's base, where rlhf.yaml names none."""
        if self.settings.model.model_name_or_path:
            return ()
        name = self.tasks["lora"].settings.model.model_name_or_path
        return ("--set", f"model.model_name_or_path={json.dumps(name)}")

    def reward_hash(self) -> str:
        """Hash of what the reward model depends on, so that another algorithm can reuse it."""
        parts = {"model", "lora", "quantization", "data", "training", "reward"}
        values = self.settings.model_dump(mode="json", include=parts)
        files = {name: self.inputs()[name] for name in ("train_file", "val_file")}
        files["base"] = base_hash(self.tasks["lora"].settings.model.model_name_or_path)
        return hashlib.sha256(json.dumps([values, files], sort_keys=True).encode()).hexdigest()

    def reusable(self) -> dict[str, Any]:
        reusable = super().reusable()
        if reusable or self.args.again or self.result.get("reward_hash") != self.reward_hash():
            return reusable
        if not run_is_complete(self.result.get("reward_run")):
            return reusable
        return {name: self.result[name] for name in ("reward_run", "reward_hash")}

    def run(self, stage: Stage) -> dict[str, Any]:
        reward = self._train_reward_model(stage) if self.own_reward_model() else {}
        words = ("--adapter", self.start_adapter()) if self.start_adapter() else ()
        words += ("--reward-model", reward["reward_run"]) if reward else ()
        resumes = self.settings.algorithm != "ppo"
        run = run_trainer(self, stage, "ppo_trainer.py", "run", *words, resumes=resumes)
        status = run_folder.read_status(paths.folder("runs") / run)
        return reward | {"run": run, "objective": status.get("objective")}

    def _train_reward_model(self, stage: Stage) -> dict[str, str]:
        """Train the reward model unless the recorded one can be used; its run and hash."""
        if not run_is_complete(self.result.get("reward_run")):
            run_trainer(self, stage, "reward_model.py", "reward_run", *self._base_option())
        reward = {"reward_run": self.result["reward_run"], "reward_hash": self.reward_hash()}
        self.state.put(self.name, result=self.result | reward)
        return reward

    def summary(self) -> str:
        return f"{self.settings.algorithm}, run {self.result.get('run')}"
