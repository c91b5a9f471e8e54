"""The manager's state file: which task is done, with which inputs, and its result.

Its top level has the keys of a run's status.json (run_id, state, pid, host, started, heartbeat,
step of max_steps); `stages` holds a record for each task:
    {"state", "inputs": {name: hash}, "result": {…}, "started", "ended"}
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kit import console, paths
from training.run_folder import RunFolder, writer_lives


class ManagerState(RunFolder):
    """The state file at `file`; replaced atomically at every change, with a heartbeat."""

    def __init__(self, file: Path):
        super().__init__(file.parent)
        self.file = file
        self.records: dict[str, dict[str, Any]] = _read(file).get("stages", {})

    def open(self, tasks: int) -> None:
        """Claim the file and start the heartbeat. Problem while another manager is running."""
        before = _read(self.file)
        if before and writer_lives(before):
            raise console.Problem(
                f"{paths.show(self.file)}: another manager is running (process {before['pid']})",
                "wait until it ends, or give this one its own --state FILE",
            )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.begin(run_id=self.file.stem, format=1, max_steps=tasks, stages=self.records)

    def put(self, name: str, **changes: Any) -> None:
        """Change a task's record and write the file."""
        record = self.records.setdefault(name, {}) | changes
        self.records[name] = record
        self.update(stage=name, stages=self.records)

    def start_task(self, name: str, inputs: dict[str, str], result: dict[str, Any]) -> None:
        """Record that a task runs; `result`: what is known of it already (a run's id)."""
        self.records[name] = {}
        self.put(name, state="running", inputs=inputs, result=result, started=time.time())

    def finish_task(self, name: str, state: str, **changes: Any) -> None:
        """Record that a task is completed, failed or stopped."""
        self.put(name, state=state, ended=time.time(), **changes)
        done = sum(record.get("state") == "completed" for record in self.records.values())
        self.update(step=done)


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("format") != 1:
            raise ValueError
    except FileNotFoundError:
        return {}
    except ValueError:
        raise console.Problem(
            f"{paths.show(file)}: not a state file of the manager",
            "delete it (every stage then runs again), or give another --state FILE",
        ) from None
    return value
