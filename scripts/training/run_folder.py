"""A run's folder: who it is, how far it is, what it measured. Written by one process only.

adapters/runs/<run-id>/  config.yaml  run.json  status.json  metrics.jsonl  log.txt
                         checkpoints/  final/  report.json  report.html  .lock (of who trains)
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from config import yaml_reader
from kit import console, jsonl, paths, publish

UNFINISHED = ("running", "stopped", "failed")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def new_id() -> str:
    """A new run id that sorts by time: 20261121-081530-3f2a."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def all_runs(root: Path | None = None) -> list[Path]:
    """Every run folder, oldest first."""
    root = root or paths.folder("runs")
    return sorted(p.parent for p in root.glob("*/status.json")) if root.is_dir() else []


def read_status(run: Path) -> dict[str, Any]:
    """status.json of a run; Problem where there is none, and where it is damaged."""
    file = run / "status.json"
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(r.name for r in all_runs(run.parent)[-3:]) or "none"
        raise console.Problem(f"no run at {paths.show(run)}", f"the latest runs: {known}") from None
    except ValueError:
        status = None
    if not isinstance(status, dict) or not isinstance(status.get("state"), str):
        raise console.Problem(
            f"{paths.show(file)}: damaged, it does not say the run's state",
            "restore that file, or move the run's folder away",
        )
    return status


def read_all(root: Path | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, status) of every run, oldest first; a damaged one is left out with a warning."""
    found = []
    for run in all_runs(root):
        try:
            found.append((run, read_status(run)))
        except console.Problem as problem:
            console.warn(str(problem))
    return found


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run began with; Problem where config.yaml is not there, damaged."""
    file = run / "config.yaml"
    try:
        config = yaml_reader.scalar(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        found = "damaged" if file.is_file() else "missing"
        raise console.Problem(
            f"{paths.show(file)}: {found}, so the run cannot go on",
            "restore that file, or start a new run without --resume",
        )
    return config


def alive(status: dict[str, Any]) -> bool:
    """Whether the process that wrote this status still runs on this machine."""
    import socket

    if status.get("state") != "running" or status.get("host") != socket.gethostname():
        return False
    if not isinstance(status.get("pid"), int):
        return False
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return time.time() - status.get("heartbeat", 0) < 60 and not _is_zombie(status["pid"])


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only its parent does not know (usual in containers)."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return stat.read_text(errors="replace").rpartition(")")[2].split()[0] == "Z"
    if not shutil.which("ps"):
        return False
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip().startswith("Z")


def unfinished(root: Path | None = None, kinds: tuple[str, ...] = ("lora",)) -> Path:
    """The latest run of these kinds that can be resumed; Problem where there is none."""
    for run, status in reversed(read_all(root)):
        if status["state"] in UNFINISHED and status.get("kind", "lora") in kinds:
            return run
    raise console.Problem("no unfinished run to resume", "start one without --resume")


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint: trainer_state.json is what the trainer writes last."""

    def step(folder: Path) -> int:
        return int(folder.name.rpartition("-")[2])

    for folder in sorted((run / "checkpoints").glob("checkpoint-*[0-9]"), key=step, reverse=True):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if state["global_step"] == step(folder):
            return folder
    return None


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
        import socket

        self.status = {
            "run_id": self.folder.name,
            "state": "running",
            "pid": os.getpid(),
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
        stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with (self.folder / "log.txt").open("a", encoding="utf-8") as f:
            f.write(f"{stamp} {text}\n")
        with contextlib.suppress(OSError):
            console.note(text)

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
            rows = [json.loads(line) for line in whole]
            jsonl.write(file, [row for row in rows if row.get("step", 0) <= step])

    def end(self, state: str, **changes: Any) -> None:
        """The last word: completed, stopped or failed."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self.update(state=state, ended=time.time(), **changes)
