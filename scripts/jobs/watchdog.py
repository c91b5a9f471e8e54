"""Tells a hung run from a slow one: by its steps, on the host, from its run folder alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from jobs.contract import Job
from kit import publish

# Phases in which no step comes for a while; status.json names them. Seconds that each may take.
LONG_PHASES = {"loading": 3600.0, "compiling": 1800.0, "evaluating": 7200.0, "saving": 1800.0}
OVER = ("stopped", "failed", "hung")  # states of a run that has ended and may go on
BEFORE_THE_FIRST_STEP = 3600.0  # reading rows, loading the base, the first compilation


class Watchdog:
    """Looks at one run: no step for max(factor x median step, seconds) means hung."""

    def __init__(self, job: Job):
        self.job = job
        self.run = Path("adapters/runs") / job.run_id
        self.began: float | None = None
        self.step: int | None = None
        self.step_at = 0.0
        self.gaps: list[float] = []
        self.status: dict = {}  # as it was read last
        self.before = _written(self.run)  # the status that an earlier life left

    def hung(self, now: float) -> str:
        """Why the run is taken for hung at `now` (seconds of any one clock), '' if it is not."""
        if not self.job.run_id or (self.job.meeting and not _written(self.run)):
            return ""  # of several hosts only the first has the run's status
        if self.began is None:
            self.began = self.step_at = now
        status = self.status = self._status()
        step = status.get("step")
        if isinstance(step, int) and step != self.step:
            if self.step is not None and step > self.step:
                self.gaps.append((now - self.step_at) / (step - self.step))
            self.step, self.step_at = step, now
        state = status.get("state")
        if state == "completed" or (state in OVER and _written(self.run) != self.before):
            return ""
        limit = self.limit(str(status.get("phase") or ""))
        waited = now - self.step_at
        if waited <= limit:
            return ""
        where = f"step {self.step}" if self.step is not None else "the first step"
        return f"nothing after {where} for {waited:.0f} s (limit {limit:.0f} s)"

    def limit(self, phase: str) -> float:
        """Seconds without a step that are allowed now."""
        usual = self.job.hung_seconds
        if self.gaps:
            usual = max(usual, self.job.hung_factor * statistics.median(self.gaps[-50:]))
        elif self.job.hung_seconds >= 60:  # a test may be in more of a hurry
            usual = max(usual, BEFORE_THE_FIRST_STEP)
        return max(usual, LONG_PHASES.get(phase, 0.0))

    def _status(self) -> dict:
        return read_status(self.run)


def _written(run: Path) -> int:
    """When status.json was written (ns), 0 for never."""
    try:
        return (run / "status.json").stat().st_mtime_ns
    except OSError:
        return 0


def record_hung(job: Job) -> None:
    """Give a run that was ended because it hung its own state: it had no chance to."""
    run = Path("adapters/runs") / job.run_id
    if job.run_id and (status := read_status(run)).get("state") == "running":
        publish.json_file(run / "status.json", status | {"state": "hung"})


def read_status(run: Path) -> dict:
    """status.json of a run, {} where it is missing or damaged."""
    try:
        value = json.loads((run / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def run_state(job: Job) -> str:
    """The state that a job's run records, '' for none."""
    return (
        str(read_status(Path("adapters/runs") / job.run_id).get("state") or "")
        if job.run_id
        else ""
    )
