"""What every stage of the manager has: inputs, prerequisites, a plan, its command, its result.

A stage is done when its last run completed with the same inputs (hashes of data, configuration,
base model, adapter) and its result is still there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from config import loader
from kit import console, paths, publish
from kit.report import Check, failed
from training import run_folder
from workflow.stages import Stage as Running
from workflow.state import State

FILES = {
    "data_prep": ("data_config.yaml", "data_config"),
    "lora": ("training_config.yaml", "training_config"),
    "rlhf": ("rlhf.yaml", "rlhf"),
    "eval": ("eval.yaml", "eval"),
}
SET_UP = {"local": "make setup-local", "remote": "make setup-remote"}


class Stage:
    """One stage of `manager`; subclasses say what it needs and does."""

    name = ""
    environment = "remote"

    def __init__(self, given, state: State, stages: dict[str, Stage]):
        self.given, self.state, self.stages = given, state, stages
        file, kind = FILES[self.name]
        self.config = given.configs.get(self.name, file)
        self.overrides = given.overrides[self.name]
        self.settings = loader.load(self.config, self.overrides, kind=kind)

    @property
    def record(self) -> dict[str, Any]:
        """What the state file knows of this stage."""
        return self.state.records.get(self.name, {})

    @property
    def result(self) -> dict[str, Any]:
        return self.record.get("result", {})

    def inputs(self) -> dict[str, str]:
        """{name: hash} of what this stage's result depends on; '' for what is not there."""
        raise NotImplementedError

    def checks(self) -> list[Check]:
        """The prerequisites, each with the command that mends it."""
        raise NotImplementedError

    def stands(self) -> bool:
        """Whether the recorded result is still there."""
        raise NotImplementedError

    def plan(self, running: Running) -> dict[str, Any]:
        """What the stage would do, from its command's own dry run."""
        return {}

    def run(self, running: Running) -> dict[str, Any]:
        """Do it; returns the result for the state file."""
        raise NotImplementedError

    def says(self) -> str:
        """The result in a few words."""
        raise NotImplementedError

    def skipped(self) -> str:
        """Why the stage has nothing to do at all, '' if it has."""
        return ""

    def will_run(self) -> bool:
        """Whether this call of the manager makes this stage's result anew."""
        return self.name in self.given.chosen and not self.skipped() and not self.done()

    def kept(self) -> dict[str, Any]:
        """What a new start of the stage can build on: an unfinished run, where nothing changed."""
        return {} if self.changed() or self.given.again else self.result

    def changed(self) -> list[str]:
        """Names of inputs that differ from the recorded ones."""
        before, now = self.record.get("inputs", {}), self.inputs()
        return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))

    def done(self) -> bool:
        completed = self.record.get("state") == "completed" and not self.given.again
        return completed and not self.changed() and self.stands()

    def why(self) -> str:
        """Why it would run: first time, changed inputs, unfinished, or a lost result."""
        state = self.record.get("state")
        if not state:
            return "not done yet"
        if changed := self.changed():
            return f"changed: {', '.join(changed)}"
        if state != "completed":
            return "unfinished" if state == "running" else state
        return "asked for again" if self.given.again else "its result is gone"

    # --- shared parts -------------------------------------------------------------------------

    def python(self) -> Path:
        return paths.ROOT / f".venv-{self.environment}" / "bin" / "python"

    def check_python(self) -> Check:
        if os.access(self.python(), os.X_OK):
            return Check(f"{self.name}: environment", "ok", f".venv-{self.environment}")
        fix = SET_UP[self.environment]
        return Check(
            f"{self.name}: environment", "fail", f"no .venv-{self.environment} here", fix
        )  # fmt: skip

    def command(self, script: str, *arguments: object, processes: int = 1) -> list[str]:
        """A command of the kit in this stage's environment, with its configuration."""
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        words = [str(self.python()), *(many if processes > 1 else [])]
        words += [str(paths.ROOT / "scripts" / script), "--config", self.config]
        words += [word for text in self.overrides for word in ("--set", text)]
        return [*words, *map(str, arguments)]

    def config_hash(self) -> str:
        """Of the effective configuration, less the opt-ins and what only guards the disk."""
        values = self.settings.model_dump(mode="json", exclude={"safety", "enabled"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path | None) -> str:
    """SHA-256 of a file or of every file in a folder; '' where there is none."""
    if path is None or not path.exists():
        return ""
    if path.is_file():
        facts = path.stat()
        return _hash_once(path, facts.st_size, facts.st_mtime_ns)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    tree = {p.relative_to(path).as_posix(): file_hash(p) for p in files}
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


@functools.cache
def _hash_once(path: Path, size: int, changed: int) -> str:
    return publish.sha256(path)


def data_file(name: str | None) -> Path | None:
    return paths.workdir() / name if name else None


def check_file(stage: str, what: str, path: Path, fix: str) -> Check:
    """Whether a file of rows is there and not empty."""
    if not path.is_file():
        return Check(f"{stage}: {what}", "fail", f"{paths.show(path)} is missing", fix)
    if not path.stat().st_size:
        return Check(f"{stage}: {what}", "fail", f"{paths.show(path)} is empty", fix)
    return Check(f"{stage}: {what}", "ok", paths.show(path))


def final_of(run: str) -> Path:
    return paths.folder("runs") / run / "final" / "adapter_model.safetensors"


def run_stands(run: str | None) -> bool:
    """Whether a run is completed and its adapter is there."""
    return bool(run) and final_of(run).is_file() and _state_of(run) == "completed"


def _state_of(run: str) -> str:
    try:
        return run_folder.read_status(paths.folder("runs") / run)["state"]
    except console.Problem:
        return ""


def begun(stage: Stage, key: str) -> str | None:
    """The unfinished run of a stage that can go on. Problem while its process still works."""
    run = stage.result.get(key)
    if not run or _state_of(run) not in run_folder.UNFINISHED:
        return None
    status = run_folder.read_status(paths.folder("runs") / run)
    if run_folder.alive(status):
        raise console.Problem(
            f"{stage.name}: the run {run} is still at work (process {status['pid']})",
            "wait for its end, or stop it",
        )
    return run


def run_trainer(
    stage: Stage, running: Running, script: str, key: str, *arguments: object, resumes: bool = True
) -> str:
    """Run a training command to its end, going on with an unfinished run; the run's id.

    The id is in the state file before the command starts, under `key` of the stage's result.
    """
    run = begun(stage, key) if resumes else None
    words = ["--resume", run] if run else ["--run-id", run_folder.new_id()]
    stage.state.put(stage.name, result=stage.result | {key: words[1]})
    words += ["--confirm-run", "--json", *map(str, arguments)]
    made = running.json(stage.command(script, *words, processes=stage.given.processes))
    return Path(made["run"]).name


def base_hash(name: str | None) -> str:
    """What tells one base model from another: its identity as one hash; else its name."""
    from base_model import identity, locate

    folder = locate.find(name)
    return identity.as_hash(folder) if folder else name or ""


def check_base(stage: str, name: str) -> Check:
    """Whether the base model's folder, or its entry in the hub's cache, is there."""
    from base_model import description

    try:
        kind = description.config(name).get("model_type")
    except console.Problem as problem:
        return failed(f"{stage}: base model", problem)
    return Check(f"{stage}: base model", "ok", f"{name} ({kind})")


def measured(run: str) -> bool:
    """Whether a run has its report (an adapter from elsewhere has none to look for)."""
    folder = paths.folder("runs") / run
    return not folder.is_dir() or (folder / "report.json").is_file()
