"""A run's folder: its writer (one process) and its readers.

adapters/runs/<run-id>/  config.yaml  run.json  status.json  metrics.jsonl  log.txt
                         checkpoints/  final/  report.json  report.html  .lock (of who trains)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import clock, console, jsonl, paths, publish
from training import run_lock, run_schema

UNFINISHED = ("running", "stopped", "failed")


def new_id() -> str:
    """A new run id that sorts by time: 20261121-081530-3f2a."""
    return f"{clock.name_stamp()}-{secrets.token_hex(2)}"


def all_runs(root: Path | None = None) -> list[Path]:
    """Every run folder, oldest first."""
    root = root or paths.folder("runs")
    return sorted(p.parent for p in root.glob("*/status.json")) if root.is_dir() else []


def read_status(run: Path) -> dict[str, Any]:
    """status.json of a run, checked. Problem where there is none, and where it is damaged."""
    try:
        return read_checked(run / "status.json", run_schema.status)
    except FileNotFoundError:
        known = ", ".join(r.name for r in all_runs(run.parent)[-3:]) or "none"
        raise console.Problem(f"no run at {paths.show(run)}", f"the latest runs: {known}") from None


def read_all(root: Path | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, status) of every run, oldest first; a damaged one is left out with a warning."""
    runs = []
    for run in all_runs(root):
        try:
            runs.append((run, read_status(run)))
        except console.Problem as problem:
            console.warn(str(problem))
    return runs


def read_facts(run: Path) -> dict[str, Any]:
    """run.json of a run, checked; {} where there is none."""
    try:
        return read_checked(run / "run.json", run_schema.facts)
    except FileNotFoundError:
        return {}


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run began with. Problem where it is missing or damaged."""
    try:
        return read_checked(run / "config.yaml", run_schema.config)
    except FileNotFoundError:
        raise console.Problem(
            f"{paths.show(run / 'config.yaml')}: missing, so the run cannot go on",
            "restore that file, or start a new run without --resume",
        ) from None


def read_checked(file: Path, check: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A file of a run's folder in the form that `check` of run_schema wants.

    FileNotFoundError where it is not there; a Problem of one line where it is damaged.
    """
    try:
        return check(run_schema.read_text(file))
    except run_schema.DamagedFile as why:
        raise console.Problem(
            f"{paths.show(file)}: damaged, {why}",
            "restore that file, or move the run's folder away",
        ) from None


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, oldest first; damaged lines are left out."""
    try:
        raw = (run / "metrics.jsonl").read_bytes()
    except OSError:
        return []
    lines = raw.decode("utf-8", "replace").split("\n")
    rows = (run_schema.metrics_row(line) for line in lines if line.strip())
    return [row for row in rows if row is not None]


def alive(run: Path, status: dict[str, Any] | None = None) -> bool:
    """Whether the process that wrote this run's status still trains it on this machine.

    Three proofs: it holds the lock of the folder, its id is in the status, and its command line
    is the recorded one. A folder that came from another machine has none of them.
    """
    if status is None:
        try:
            status = read_status(run)
        except console.Problem:
            return False
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return False
    held, command = run_lock.holder(run), status.get("command")
    same = held is not None and held == status.get("pid")
    return same and run_lock.is_trainer(command) and run_lock.runs_command(held, command)


def writer_lives(status: dict[str, Any]) -> bool:
    """Whether the process that wrote a status without a lock of its own (the manager's) lives."""
    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return False
    return run_lock.runs_command(status.get("pid"), status.get("command"))


def unfinished(root: Path | None = None, kinds: tuple[str, ...] = ("lora",)) -> Path:
    """The latest run of these kinds that can be resumed; Problem where there is none."""
    for run, status in reversed(read_all(root)):
        if status["state"] in UNFINISHED and status.get("kind", "lora") in kinds:
            return run
    raise console.Problem("no unfinished run to resume", "start one without --resume")


def whole_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints, newest first: the trainer writes trainer_state.json last."""

    def step(folder: Path) -> int:
        return int(folder.name.rpartition("-")[2])

    whole = []
    for folder in sorted((run / "checkpoints").glob("checkpoint-*[0-9]"), key=step, reverse=True):
        try:
            text = (folder / "trainer_state.json").read_text(encoding="utf-8")
            state = json.loads(text)
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(state, dict) and state.get("global_step") == step(folder):
            whole.append(folder)
    return whole


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint; None where there is none."""
    return next(iter(whole_checkpoints(run)), None)


class RunFolder:
    """The writer of one run's folder. `heartbeat` in status.json is renewed every few seconds."""

    def __init__(self, folder: Path, beat_seconds: float = 5.0):
        self.folder, self.file = folder, folder / "status.json"
        self.status: dict[str, Any] = {}
        self._beat_seconds = beat_seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, config: dict[str, Any], facts: dict[str, Any], **status: Any) -> None:
        """Write config.yaml and run.json, and begin to beat."""
        import yaml

        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        with publish.file(self.folder / "config.yaml") as f:
            yaml.safe_dump(config, f, sort_keys=False, allow_unicode=True)
        publish.json_file(self.folder / "run.json", facts)
        self.begin(**status)

    def begin(self, **status: Any) -> None:
        """Write the first status, and beat until `end`."""
        self.status = {
            "run_id": self.folder.name,
            "state": "running",
            "pid": os.getpid(),
            "command": run_lock.own_command(),
            "host": socket.gethostname(),
            "started": time.time(),
            "step": 0,
        }
        self.update(**status)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            with contextlib.suppress(OSError):  # a full disk may have room at the next beat
                self.update()

    def update(self, **changes: Any) -> None:
        """Replace status.json atomically, with `changes` and a new heartbeat (unix seconds)."""
        with self._lock:
            self.status |= changes
            self.status["heartbeat"] = time.time()
            part = self.file.with_name(f".{self.file.name}.part")
            part.write_text(json.dumps(self.status) + "\n", encoding="utf-8")
            os.replace(part, self.file)

    def log(self, text: str) -> None:
        """Append one line to log.txt and show it, if somebody still reads stderr."""
        stamp = clock.timestamp()
        with (self.folder / "log.txt").open("a", encoding="utf-8") as f:
            f.write(f"{stamp} {text}\n")
        with contextlib.suppress(OSError):
            console.note(text)

    def progress(self) -> str:
        """What the run does now: 'step 12/30, evaluating, 2 min 10 s to go'."""
        words = [str(self.status.get("phase") or self.status.get("state"))]
        if most := self.status.get("max_steps"):
            words.insert(0, f"step {self.status.get('step', 0)}/{most}")
        if remaining := self.status.get("eta_seconds"):
            words.append(f"{console.duration(remaining)} to go")
        return ", ".join(words)

    def metrics(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drop what metrics.jsonl has after `step`: a resumed run measures that again."""
        file = self.folder / "metrics.jsonl"
        if file.exists():
            # A kill can leave half a last line, which is of a step that will come again.
            text = file.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1].splitlines()
            rows = [json.loads(line) for line in whole if run_schema.metrics_row(line) is not None]
            jsonl.write(file, [row for row in rows if row.get("step", 0) <= step])

    def end(self, state: str, **changes: Any) -> None:
        """Write the final state (completed, stopped, failed) and stop beating."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self.update(state=state, ended=time.time(), **changes)
