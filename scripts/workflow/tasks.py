"""The four stages: what each stands on, what it needs, its plan, and the commands that it runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from adapters import metrics
from corpus.documents.passage_store import collection_hash
from kit import paths
from kit.report import Check
from training import run_folder
from workflow.stages import Stage as Running
from workflow.task import (
    Stage,
    base_hash,
    check_base,
    check_file,
    data_file,
    file_hash,
    final_of,
    measured,
    run_stands,
    run_trainer,
)


class DataPrep(Stage):
    """Raw text, a collection or generated examples to rows."""

    name = "data_prep"
    environment = "local"

    @property
    def out(self) -> Path:
        return paths.folder("data_processed")

    def source(self) -> list[str]:
        if self.given.raw:
            return ["--input", self.given.raw]
        return ["--collection", self.given.collection] if self.given.collection else []

    def skipped(self) -> str:
        """Without a source, data that is there is taken as it is.

        Only examples that this stage generated itself are generated anew.
        """
        if self.source() or not (self.out / "manifest.json").is_file():
            return ""
        made_here = self.record.get("inputs", {}).get("source") == "generated" and self.stands()
        return "" if made_here else f"{paths.show(self.out)} as it is: {self._there()}"

    def inputs(self) -> dict[str, str]:
        found = {"config": self.config_hash(), "source": " ".join(self.source()) or "generated"}
        if self.given.raw:
            found["raw"] = file_hash(Path(self.given.raw))
        elif self.given.collection:
            found["collection"] = collection_hash(self.given.collection)
        return found

    def store(self) -> Path:
        return paths.folder("vector_store") / "chroma.sqlite3"

    def checks(self) -> list[Check]:
        found = [self.check_python()]
        if self.given.raw:
            there = Path(self.given.raw).exists()
            fix = "give a path that exists"
            text = self.given.raw if there else f"{self.given.raw}: no such file or folder"
            found.append(Check("data_prep: raw", "ok" if there else "fail", text, fix))
        if self.given.collection and not self.store().is_file():
            fix = "python scripts/ingest_documents.py PATH makes it"
            text = f"no collection {self.given.collection}: {paths.show(self.store())} is missing"
            found.append(Check("data_prep: collection", "fail", text, fix))
        if (there := self.skipped()) and not self.given.again:
            fix = "give --raw PATH, or --again to replace it with generated examples"
            found.append(Check("data_prep: source", "fail", there, fix))
        return found

    def stands(self) -> bool:
        recorded = self.result.get("files", {})
        return bool(recorded) and all(
            file_hash(self.out / name) == digest for name, digest in recorded.items()
        )

    def plan(self, running: Running) -> dict[str, Any]:
        made = running.json(self.command("data_prep.py", *self.source(), "--json"))
        rows = {name: facts["rows"] for name, facts in made["files"].items()}
        running.says(_rows(rows))
        return {"rows": rows}

    def run(self, running: Running) -> dict[str, Any]:
        words = (*self.source(), "--out-dir", self.out, "--confirm", "--json")
        made = running.json(self.command("data_prep.py", *words))
        files = {name: facts["sha256"] for name, facts in made["files"].items()}
        return {"files": files, "rows": {n: f["rows"] for n, f in made["files"].items()}}

    def says(self) -> str:
        return _rows(self.result.get("rows", {}))

    def _there(self) -> str:
        manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
        return _rows({name: facts["rows"] for name, facts in manifest["files"].items()})


def _rows(counts: dict[str, int]) -> str:
    """'rows: train_sft 912, val_sft 48'"""
    return "rows: " + ", ".join(f"{n.removesuffix('.jsonl')} {c:,}" for n, c in counts.items())


class Lora(Stage):
    """The adapter, trained on the rows."""

    name = "lora"

    def inputs(self) -> dict[str, str]:
        data = self.settings.data
        return {
            "config": self.config_hash(),
            "train_file": file_hash(data_file(data.train_file)),
            "val_file": file_hash(data_file(data.val_file)),
            "base_model": base_hash(self.settings.model.model_name_or_path),
        }

    def checks(self) -> list[Check]:
        data, found = self.settings.data, [self.check_python()]
        if not self.stages["data_prep"].will_run():
            for key in ("train_file", "val_file"):
                if path := data_file(getattr(data, key)):
                    found.append(check_file(self.name, key, path, "--stage data_prep writes it"))
        found.append(check_base(self.name, self.settings.model.model_name_or_path))
        if self.settings.safety.dry_run:
            status = "fail" if self.given.confirm else "warn"
            fix = "safety.dry_run: false there, or --set safety.dry_run=false"
            text = f"{self.config} says dry_run: true"
            found.append(Check("lora: opt-in", status, text, fix))
        return found

    def stands(self) -> bool:
        return run_stands(self.result.get("run"))

    def plan(self, running: Running) -> dict[str, Any]:
        made = running.json(self.command("lora_trainer.py", "--dry-run", "--json"))["plan"]
        running.says(f"{made['method']} of {made['model']}, {made['steps']:,} steps")
        return made

    def run(self, running: Running) -> dict[str, Any]:
        return {"run": run_trainer(self, running, "lora_trainer.py", "run")}

    def says(self) -> str:
        return f"run {self.result.get('run')}"


class Rlhf(Stage):
    """A reward model where the algorithm wants one, then RLHF from the LoRA adapter."""

    name = "rlhf"

    def skipped(self) -> str:
        return "" if self.settings.enabled else "disabled (enabled: false in rlhf.yaml)"

    def start(self) -> str | None:
        """The adapter to start from: named in rlhf.yaml, by --run, or that of the lora stage."""
        named = self.settings.sft_model_path
        return named or self.given.run or self.stages["lora"].result.get("run")

    def own_reward_model(self) -> bool:
        """Whether this stage trains a reward model itself."""
        from rlhf.models import needs_reward_model

        return needs_reward_model(self.settings) and self.settings.reward_model_path == "latest"

    def inputs(self) -> dict[str, str]:
        data, start = self.settings.data, self.start()
        return {
            "config": self.config_hash(),
            "train_file": file_hash(data_file(data.train_file)),
            "val_file": file_hash(data_file(data.val_file)),
            "adapter": file_hash(final_of(start)) or start if start else "",
        }

    def checks(self) -> list[Check]:
        found, data = [self.check_python()], self.settings.data
        fix = "give data_prep preference rows (prompt, chosen, rejected)"
        if not self.stages["data_prep"].will_run():
            for key in ("train_file", "val_file"):
                if path := data_file(getattr(data, key)):
                    found.append(check_file(self.name, key, path, fix))
        if not self.start() and "lora" not in self.given.chosen:
            fix = "--stage lora first, or --run RUN, or sft_model_path in rlhf.yaml"
            found.append(Check("rlhf: adapter", "fail", "no adapter to start from", fix))
        if not self.settings.enabled:
            status = "fail" if self.given.confirm else "warn"
            fix = "enabled: true there, or --set rlhf:enabled=true; read the warnings first"
            found.append(Check("rlhf: opt-in", status, f"{self.config} says enabled: false", fix))
        return found

    def stands(self) -> bool:
        return run_stands(self.result.get("run"))

    def plan(self, running: Running) -> dict[str, Any]:
        start, plans = self.start(), {}
        adapter = ("--adapter", start) if start else ()
        if self.own_reward_model():
            words = ("--dry-run", "--json", *self._base(running))
            plans["reward"] = running.json(self.command("reward_model.py", *words))["plan"]
        else:
            words = ("--dry-run", "--json", *adapter)
            plans["policy"] = running.json(self.command("ppo_trainer.py", *words))["plan"]
        steps = ", ".join(f"{name} {made['steps']:,} steps" for name, made in plans.items())
        running.says(f"{self.settings.algorithm} from {start or 'the base'}: {steps}")
        return plans

    def _base(self, running: Running) -> tuple[str, ...]:
        """--set that gives the reward model the adapter's base, where rlhf.yaml leaves it open."""
        if self.settings.model.model_name_or_path:
            return ()
        name = self.stages["lora"].settings.model.model_name_or_path
        return ("--set", f"model.model_name_or_path={json.dumps(name)}")

    def reward_hash(self) -> str:
        """Of what the reward model depends on, so that another algorithm can use it again."""
        parts = {"model", "lora", "quantization", "data", "training", "reward"}
        values = self.settings.model_dump(mode="json", include=parts)
        known = {name: self.inputs()[name] for name in ("train_file", "val_file")}
        known["base"] = base_hash(self.stages["lora"].settings.model.model_name_or_path)
        return hashlib.sha256(json.dumps([values, known], sort_keys=True).encode()).hexdigest()

    def kept(self) -> dict[str, Any]:
        found = super().kept()
        again = found or self.given.again or self.result.get("reward_hash") != self.reward_hash()
        if again or not run_stands(self.result.get("reward_run")):
            return found
        return {name: self.result[name] for name in ("reward_run", "reward_hash")}

    def run(self, running: Running) -> dict[str, Any]:
        found, reward = {}, ()
        if self.own_reward_model():
            if not run_stands(self.result.get("reward_run")):
                words = self._base(running)
                run_trainer(self, running, "reward_model.py", "reward_run", *words)
            found = {"reward_run": self.result["reward_run"], "reward_hash": self.reward_hash()}
            self.state.put(self.name, result=self.result | found)
            reward = ("--reward-model", found["reward_run"])
        start = ("--adapter", self.start()) if self.start() else ()
        resumes = self.settings.algorithm != "ppo"
        words = (*start, *reward)
        run = run_trainer(self, running, "ppo_trainer.py", "run", *words, resumes=resumes)
        status = run_folder.read_status(paths.folder("runs") / run)
        return found | {"run": run, "objective": status.get("objective")}

    def says(self) -> str:
        return f"{self.settings.algorithm}, run {self.result.get('run')}"


class Eval(Stage):
    """Each adapter beside its base on the validation rows."""

    name = "eval"

    def dataset(self) -> Path:
        named = self.given.dataset or self.stages["lora"].settings.data.val_file
        return data_file(named or "data/processed/val_sft.jsonl")

    def models(self) -> list[str]:
        """What is measured: --run, or the runs of lora and rlhf; the last one is the result."""
        if self.given.run:
            return [self.given.run]
        rlhf = self.stages["rlhf"]
        runs = [self.stages["lora"].result.get("run")]
        runs += [rlhf.result.get("run")] if not rlhf.skipped() else []
        return [run for run in runs if run]

    def inputs(self) -> dict[str, str]:
        found = {"config": self.config_hash(), "dataset": file_hash(self.dataset())}
        return found | {run: file_hash(final_of(run)) for run in self.models()}

    def checks(self) -> list[Check]:
        found = [self.check_python()]
        if not self.models() and "lora" not in self.given.chosen:
            fix = "--stage lora first, or --run RUN"
            found.append(Check("eval: adapter", "fail", "no completed run to measure", fix))
        if not self.stages["data_prep"].will_run():
            fix = "--stage data_prep writes it, or --dataset FILE"
            found.append(check_file(self.name, "dataset", self.dataset(), fix))
        return found

    def stands(self) -> bool:
        runs = self.models()
        recorded = set(self.result.get("reports", {}))
        return bool(runs) and set(runs) == recorded and all(map(measured, runs))

    def plan(self, running: Running) -> dict[str, Any]:
        running.says(f"{', '.join(self.models())} on {paths.show(self.dataset())}")
        return {"models": self.models(), "dataset": paths.show(self.dataset())}

    def kept(self) -> dict[str, Any]:
        """The reports of adapters that were measured on the same rows in the same way."""
        changed = self.changed()
        if self.given.again or "config" in changed or "dataset" in changed:
            return {}
        before = self.result.get("reports", {})
        return {"reports": {r: before[r] for r in before if r not in changed and measured(r)}}

    def run(self, running: Running) -> dict[str, Any]:
        reports = {}
        for model in self.models():
            reports[model] = self.result.get("reports", {}).get(model)
            if reports[model] is None:
                words = ("--model", model, "--dataset", self.dataset(), "--json")
                report = running.json(self.command("eval.py", *words))
                reports[model] = {"before": report["base"], "after": report["metrics"]}
            self.state.put(self.name, result={"reports": reports})
        return {"reports": reports, "run": model} | reports[model]

    def says(self) -> str:
        before, after = self.result.get("before") or {}, self.result.get("after") or {}
        name = "loss" if "loss" in after else metrics.RANKED[0]
        if name not in before:
            return f"{name} {after[name]['value']:.3f}"
        return f"{name} {before[name]['value']:.3f} -> {after[name]['value']:.3f}"


STAGES = (DataPrep, Lora, Rlhf, Eval)
