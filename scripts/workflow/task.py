"""What every task of the training manager has: inputs, prerequisites, a plan, a command, a result.

A task is done when its last run completed with the same inputs (hashes of data, configuration,
base model, adapter) and its result still exists.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from base_model import locate
from config import loader, options
from kit import console, paths, publish
from kit.report import Check, failed
from training import run_folder
from workflow.manager_state import ManagerState
from workflow.stages import Stage

CONFIG_FILES = {  # of each task: the configuration file, and the schema that it is checked with
    "data_prep": ("data_config.yaml", "data_config"),
    "lora": ("training_config.yaml", "training_config"),
    "rlhf": ("rlhf.yaml", "rlhf"),
    "eval": ("eval.yaml", "eval"),
}
SET_UP = {"local": "make setup-local", "remote": "make setup-remote"}


class Task:
    """One task of the manager; subclasses say what it needs and does.

    `args`: the manager's arguments; `tasks`: all tasks by name, for those that need another's
    result.
    """

    name = ""
    environment = "remote"

    def __init__(self, args, state: ManagerState, tasks: dict[str, Task]):
        self.args, self.state, self.tasks = args, state, tasks
        file, kind = CONFIG_FILES[self.name]
        self.config = args.configs.get(self.name, file)
        self.overrides = args.overrides[self.name]
        self.settings = loader.load(self.config, self.overrides, kind=kind)

    @property
    def record(self) -> dict[str, Any]:
        """The task's record in the state file."""
        return self.state.records.get(self.name, {})

    @property
    def result(self) -> dict[str, Any]:
        """The recorded result, {} before the first run."""
        return self.record.get("result", {})

    def inputs(self) -> dict[str, str]:
        """{name: hash} of what the result depends on; '' for what does not exist."""
        raise NotImplementedError

    def checks(self) -> list[Check]:
        """The prerequisites, each with the command that fixes it."""
        raise NotImplementedError

    def result_exists(self) -> bool:
        """Whether the recorded result still exists."""
        raise NotImplementedError

    def plan(self, stage: Stage) -> dict[str, Any]:
        """What the task would do, from its command's own dry run."""
        return {}

    def run(self, stage: Stage) -> dict[str, Any]:
        """Run the task's commands; returns the result for the state file."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result in a few words."""
        raise NotImplementedError

    def skip_reason(self) -> str:
        """Why the task has nothing to do at all, '' if it has."""
        return ""

    def will_run(self) -> bool:
        """Whether this call of the manager makes this task's result again."""
        return self.name in self.args.chosen and not self.skip_reason() and not self.done()

    def reusable(self) -> dict[str, Any]:
        """The part of an unfinished result that a new start can build on, as its run id."""
        return {} if self.changed() or self.args.again else self.result

    def changed(self) -> list[str]:
        """Names of inputs that differ from the recorded ones."""
        before, now = self.record.get("inputs", {}), self.inputs()
        return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))

    def done(self) -> bool:
        """Whether nothing needs to be done again."""
        completed = self.record.get("state") == "completed" and not self.args.again
        return completed and not self.changed() and self.result_exists()

    def why(self) -> str:
        """Why it would run: first time, changed inputs, unfinished, or a lost result."""
        state = self.record.get("state")
        if not state:
            return "not done yet"
        if changed := self.changed():
            return f"changed: {', '.join(changed)}"
        if state != "completed":
            return "unfinished" if state == "running" else state
        return "asked for again" if self.args.again else "its result is gone"

    # --- shared parts -------------------------------------------------------------------------

    def python(self) -> Path:
        """The interpreter of the task's environment."""
        return paths.ROOT / f".venv-{self.environment}" / "bin" / "python"

    def check_python(self) -> Check:
        """Whether the task's environment is installed."""
        name, venv = f"{self.name}: environment", f".venv-{self.environment}"
        if os.access(self.python(), os.X_OK):
            return Check(name, "ok", venv)
        return Check(name, "fail", f"no {venv} here", SET_UP[self.environment])

    def command(self, script: str, *arguments: object, processes: int = 1) -> list[str]:
        """A command of the kit in this task's environment, with its configuration."""
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        words = [str(self.python()), *(many if processes > 1 else [])]
        words += [str(paths.ROOT / "scripts" / script), "--config", self.config]
        words += options.set_words(self.overrides)
        return [*words, *map(str, arguments)]

    def config_hash(self) -> str:
        """Hash of the effective configuration, without the opt-ins and the limits of the disk."""
        values = self.settings.model_dump(mode="json", exclude={"safety", "enabled"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# --- files ------------------------------------------------------------------------------------


def file_hash(path: Path | None) -> str:
    """SHA-256 of a file or of every file in a folder; '' if there is none."""
    if path is None or not path.exists():
        return ""
    if path.is_file():
        facts = path.stat()
        return _hash_once(path, facts.st_size, facts.st_mtime_ns)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    hashes = {p.relative_to(path).as_posix(): file_hash(p) for p in files}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@functools.cache
def _hash_once(path: Path, size: int, mtime_ns: int) -> str:
    return publish.sha256(path)


def data_file(name: str | None) -> Path | None:
    """A data file of a configuration, which is relative to the work folder."""
    return paths.workdir() / name if name else None


def check_file(task: str, what: str, path: Path, fix: str) -> Check:
    """Whether a file of rows exists and is not empty."""
    if not path.is_file():
        return Check(f"{task}: {what}", "fail", f"{paths.show(path)} is missing", fix)
    if not path.stat().st_size:
        return Check(f"{task}: {what}", "fail", f"{paths.show(path)} is empty", fix)
    return Check(f"{task}: {what}", "ok", paths.show(path))


# --- runs -------------------------------------------------------------------------------------


def adapter_file(run: str) -> Path:
    """The weights that a completed run has."""
    return paths.folder("runs") / run / "final" / locate.ADAPTER_WEIGHTS


def run_is_complete(run: str | None) -> bool:
    """Whether a run is completed and its adapter exists."""
    return bool(run) and adapter_file(run).is_file() and run_state(run) == "completed"


def run_state(run: str) -> str:
    """`state` of a run's status.json, '' where it cannot be read."""
    try:
        return run_folder.read_status(paths.folder("runs") / run)["state"]
    except console.Problem:
        return ""


def unfinished_run(task: Task, key: str) -> str | None:
    """The unfinished run of a task that can continue. Problem while its process still works."""
    run = task.result.get(key)
    if not run or run_state(run) not in run_folder.UNFINISHED:
        return None
    status = run_folder.read_status(paths.folder("runs") / run)
    if run_folder.alive(paths.folder("runs") / run, status):
        raise console.Problem(
            f"{task.name}: the run {run} is still running (process {status['pid']})",
            "wait until it ends, or stop it",
        )
    return run


def run_trainer(
    task: Task, stage: Stage, script: str, key: str, *arguments: object, resumes: bool = True
) -> str:
    """Run a training command to its end, going on with an unfinished run; the run's id.

    The id is in the state file before the command starts, under `key` of the task's result.
    """
    run = unfinished_run(task, key) if resumes else None
    words = ["--resume", run] if run else ["--run-id", run_folder.new_id()]
    task.state.put(task.name, result=task.result | {key: words[1]})
    words += ["--confirm-run", "--json", *map(str, arguments)]
    answer = stage.json(task.command(script, *words, processes=task.args.processes))
    return Path(answer["run"]).name


def has_report(run: str) -> bool:
    """Whether a run has its report (an adapter from elsewhere has none to look for)."""
    folder = paths.folder("runs") / run
    return not folder.is_dir() or (folder / "report.json").is_file()


# --- the base model ---------------------------------------------------------------------------


def base_hash(name: str | None) -> str:
    """Hash of the base model's identity as runs record it; its name where it is not here."""
    from base_model import identity, locate

    folder = locate.find(name)
    return identity.as_hash(folder) if folder else name or ""


def check_base(task: str, name: str) -> Check:
    """Whether the base model's folder, or its entry in the hub's cache, exists."""
    from base_model import description

    try:
        kind = description.config(name).get("model_type")
    except console.Problem as problem:
        return failed(f"{task}: base model", problem)
    return Check(f"{task}: base model", "ok", f"{name} ({kind})")
