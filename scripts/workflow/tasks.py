"""The manager's tasks in their order, and the first two: rows from text, an adapter from rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corpus.documents.passage_store import collection_hash
from kit import paths
from kit.report import Check
from workflow.eval_task import EvalTask
from workflow.rlhf_task import RlhfTask
from workflow.stages import Stage
from workflow.task import (
    Task,
    base_hash,
    check_base,
    check_file,
    data_file,
    file_hash,
    run_is_complete,
    run_trainer,
)


class DataTask(Task):
    """Raw text, a collection or generated examples to rows."""

    name = "data_prep"
    environment = "local"

    @property
    def out(self) -> Path:
        return paths.folder("data_processed")

    def source(self) -> list[str]:
        """The option of data_prep.py that names the source; [] for generated examples."""
        if self.args.raw:
            return ["--input", self.args.raw]
        return ["--collection", self.args.collection] if self.args.collection else []

    def skip_reason(self) -> str:
        """Without a source, existing data is used as it is.

        Only examples that this task generated itself are generated again.
        """
        if self.source() or not (self.out / "manifest.json").is_file():
            return ""
        generated = self.record.get("inputs", {}).get("source") == "generated"
        if generated and self.result_exists():
            return ""
        return f"{paths.show(self.out)} as it is: {self._existing_rows()}"

    def inputs(self) -> dict[str, str]:
        inputs = {"config": self.config_hash(), "source": " ".join(self.source()) or "generated"}
        if self.args.raw:
            inputs["raw"] = file_hash(Path(self.args.raw))
        elif self.args.collection:
            inputs["collection"] = collection_hash(self.args.collection)
        return inputs

    def store(self) -> Path:
        return paths.folder("vector_store") / "chroma.sqlite3"

    def checks(self) -> list[Check]:
        checks = [self.check_python()]
        if self.args.raw:
            exists = Path(self.args.raw).exists()
            fix = "give a path that exists"
            text = self.args.raw if exists else f"{self.args.raw}: no such file or folder"
            checks.append(Check("data_prep: raw", "ok" if exists else "fail", text, fix))
        if self.args.collection and not self.store().is_file():
            fix = "python scripts/ingest_documents.py PATH makes it"
            text = f"no collection {self.args.collection}: {paths.show(self.store())} is missing"
            checks.append(Check("data_prep: collection", "fail", text, fix))
        if (reason := self.skip_reason()) and not self.args.again:
            fix = "give --raw PATH, or --again to replace it with generated examples"
            checks.append(Check("data_prep: source", "fail", reason, fix))
        return checks

    def result_exists(self) -> bool:
        recorded = self.result.get("files", {})
        return bool(recorded) and all(
            file_hash(self.out / name) == digest for name, digest in recorded.items()
        )

    def plan(self, stage: Stage) -> dict[str, Any]:
        answer = stage.json(self.command("data_prep.py", *self.source(), "--json"))
        rows = {name: facts["rows"] for name, facts in answer["files"].items()}
        stage.set_fact(row_counts(rows))
        return {"rows": rows}

    def run(self, stage: Stage) -> dict[str, Any]:
        words = (*self.source(), "--out-dir", self.out, "--confirm", "--json")
        files = stage.json(self.command("data_prep.py", *words))["files"]
        return {
            "files": {name: facts["sha256"] for name, facts in files.items()},
            "rows": {name: facts["rows"] for name, facts in files.items()},
        }

    def summary(self) -> str:
        return row_counts(self.result.get("rows", {}))

    def _existing_rows(self) -> str:
        manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
        return row_counts({name: facts["rows"] for name, facts in manifest["files"].items()})


def row_counts(counts: dict[str, int]) -> str:
    """'rows: train_sft 912, val_sft 48'"""
    return "rows: " + ", ".join(f"{n.removesuffix('.jsonl')} {c:,}" for n, c in counts.items())


class LoraTask(Task):
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
        data, checks = self.settings.data, [self.check_python()]
        if not self.tasks["data_prep"].will_run():
            for key in ("train_file", "val_file"):
                if path := data_file(getattr(data, key)):
                    checks.append(check_file(self.name, key, path, "--stage data_prep writes it"))
        checks.append(check_base(self.name, self.settings.model.model_name_or_path))
        if self.settings.safety.dry_run:
            status = "fail" if self.args.confirm else "warn"
            fix = "safety.dry_run: false there, or --set safety.dry_run=false"
            text = f"{self.config} says dry_run: true"
            checks.append(Check("lora: opt-in", status, text, fix))
        return checks

    def result_exists(self) -> bool:
        return run_is_complete(self.result.get("run"))

    def plan(self, stage: Stage) -> dict[str, Any]:
        plan = stage.json(self.command("lora_trainer.py", "--dry-run", "--json"))["plan"]
        stage.set_fact(f"{plan['method']} of {plan['model']}, {plan['steps']:,} steps")
        return plan

    def run(self, stage: Stage) -> dict[str, Any]:
        return {"run": run_trainer(self, stage, "lora_trainer.py", "run")}

    def summary(self) -> str:
        return f"run {self.result.get('run')}"


TASKS = (DataTask, LoraTask, RlhfTask, EvalTask)
