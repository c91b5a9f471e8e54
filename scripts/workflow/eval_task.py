"""The manager's evaluation: each adapter and its base on the validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import metrics
from kit import paths
from kit.report import Check
from workflow.stages import Stage
from workflow.task import Task, adapter_file, check_file, data_file, file_hash, has_report


class EvalTask(Task):
    """Each adapter and its base on the validation rows."""

    name = "eval"

    def dataset(self) -> Path:
        named = self.args.dataset or self.tasks["lora"].settings.data.val_file
        return data_file(named or "data/processed/val_sft.jsonl")

    def models(self) -> list[str]:
        """What is measured: --run, or the runs of lora and rlhf; the last one is the result."""
        if self.args.run:
            return [self.args.run]
        rlhf = self.tasks["rlhf"]
        runs = [self.tasks["lora"].result.get("run")]
        runs += [rlhf.result.get("run")] if not rlhf.skip_reason() else []
        return [run for run in runs if run]

    def inputs(self) -> dict[str, str]:
        inputs = {"config": self.config_hash(), "dataset": file_hash(self.dataset())}
        return inputs | {run: file_hash(adapter_file(run)) for run in self.models()}

    def checks(self) -> list[Check]:
        checks = [self.check_python()]
        if not self.models() and "lora" not in self.args.chosen:
            fix = "--stage lora first, or --run RUN"
            checks.append(Check("eval: adapter", "fail", "no completed run to measure", fix))
        if not self.tasks["data_prep"].will_run():
            fix = "--stage data_prep writes it, or --dataset FILE"
            checks.append(check_file(self.name, "dataset", self.dataset(), fix))
        return checks

    def result_exists(self) -> bool:
        runs = self.models()
        recorded = set(self.result.get("reports", {}))
        return bool(runs) and set(runs) == recorded and all(map(has_report, runs))

    def plan(self, stage: Stage) -> dict[str, Any]:
        stage.set_fact(f"{', '.join(self.models())} on {paths.show(self.dataset())}")
        return {"models": self.models(), "dataset": paths.show(self.dataset())}

    def reusable(self) -> dict[str, Any]:
        """The reports of adapters that were measured on the same rows in the same way."""
        changed = self.changed()
        if self.args.again or "config" in changed or "dataset" in changed:
            return {}
        before = self.result.get("reports", {})
        kept = {r: before[r] for r in before if r not in changed and has_report(r)}
        return {"reports": kept}

    def run(self, stage: Stage) -> dict[str, Any]:
        reports = {}
        for model in self.models():
            reports[model] = self.result.get("reports", {}).get(model)
            if reports[model] is None:
                words = ("--model", model, "--dataset", self.dataset(), "--json")
                report = stage.json(self.command("eval.py", *words))
                reports[model] = {"before": report["base"], "after": report["metrics"]}
            self.state.put(self.name, result={"reports": reports})
        return {"reports": reports, "run": model} | reports[model]

    def summary(self) -> str:
        before, after = self.result.get("before") or {}, self.result.get("after") or {}
        name = "loss" if "loss" in after else metrics.RANKED[0]
        if name not in before:
            return f"{name} {after[name]['value']:.3f}"
        return f"{name} {before[name]['value']:.3f} -> {after[name]['value']:.3f}"
