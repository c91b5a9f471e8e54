"""A sweep: several trainings that differ in a few settings, compared by one evaluation metric.

Each candidate is trained and evaluated by the training manager with a state file of its own,
adapters/runs/sweep-NAME.ID.json, so that a sweep which was interrupted continues where it stopped,
and a candidate is trained again only when its data, configuration or base model change. The
comparison is written to adapters/runs/sweep-NAME.json after each candidate.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import metrics
from config import loader, options
from kit import console, paths, publish
from workflow.candidates import Candidate, candidate_id
from workflow.stages import Stage, StageFailed, StageSeries

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
MANAGER = paths.ROOT / "scripts" / "training_manager.py"


@dataclass(frozen=True)
class Sweep:
    """What is compared. `common`: options of the training manager for every candidate."""

    name: str
    metric: str
    candidates: list[Candidate]
    common: list[str]

    def file(self, suffix: str = "") -> Path:
        """The file of the comparison, or of one candidate's state."""
        return paths.folder("runs") / f"sweep-{self.name}{suffix}.json"


def check(sweep: Sweep, config: str, overrides: list[str]) -> None:
    """A Misuse where the name, the metric or the settings of a candidate are wrong."""
    if not NAME.fullmatch(sweep.name):
        raise console.Misuse(
            f"--name {sweep.name!r}: not a plain name", "letters, digits, - and _, 40 at most"
        )
    known = [metric.name for metric in metrics.METRICS]
    if sweep.metric not in known:
        raise console.Misuse(f"--metric {sweep.metric}: unknown", f"one of {', '.join(known)}")
    for candidate in sweep.candidates:
        loader.load(config, [*overrides, *candidate], kind="training_config")


def manager_command(sweep: Sweep, candidate: Candidate, stage: str, confirm: bool) -> list[str]:
    """The training manager's command for one stage of one candidate."""
    state = sweep.file(f".{candidate_id(candidate)}")
    words = [sys.executable, str(MANAGER), "--stage", stage, "--state", str(state), "--json"]
    words += ["--confirm"] if confirm else []
    return [*words, *sweep.common, *options.set_words(candidate)]


def plan(sweep: Sweep, log: Path) -> dict[str, Any]:
    """The plan of the first candidate's training, which is that of all but for the settings."""
    with StageSeries(log).stage("plan") as stage:
        answer = stage.json(manager_command(sweep, sweep.candidates[0], "lora", False))
        task = answer["stages"]["lora"]
        stage.set_fact(f"{len(sweep.candidates)} trainings; the first {task['state']}")
    return task


def run(sweep: Sweep, log: Path) -> list[dict[str, Any]]:
    """Train and evaluate every candidate; the table, best first. Problem where all failed.

    A candidate that fails is noted, and the next one begins.
    """
    series, rows = StageSeries(log), []
    for number, candidate in enumerate(sweep.candidates, 1):
        row = {"settings": list(candidate), "id": candidate_id(candidate)}
        try:
            with series.stage(f"{number} of {len(sweep.candidates)}") as stage:
                row |= run_candidate(sweep, candidate, stage)
                stage.set_fact(f"{_shown(sweep.metric, row)}  {' '.join(candidate)}")
        except StageFailed as failure:
            if failure.code == console.MISUSED:
                raise
            row |= {"state": "failed", "problem": str(failure)}
            console.warn(str(failure))
        rows.append(row)
        save(sweep, rows)
    rows = ranked(rows, sweep.metric)
    if all(row["state"] == "failed" for row in rows):
        raise console.Problem(f"no training ended well; the first: {rows[0]['problem']}")
    return rows


def run_candidate(sweep: Sweep, candidate: Candidate, stage: Stage) -> dict[str, Any]:
    """One candidate through the manager: its run and its metrics before and after."""
    stage.json(manager_command(sweep, candidate, "lora", True))
    answer = stage.json(manager_command(sweep, candidate, "eval", True))
    return {"state": "completed"} | {key: answer[key] for key in ("run", "before", "after")}


def ranked(rows: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The rows, best first by `metric`; those without it come last, in their order."""

    def key(row: dict[str, Any]) -> tuple[bool, float]:
        value = value_of(row, metric)
        return value is None, 0.0 if value is None else -metrics.merit(metric, value)

    return sorted(rows, key=key)


def value_of(row: dict[str, Any], metric: str) -> float | None:
    """A metric of a candidate after its training; None where it was not measured."""
    return ((row.get("after") or {}).get(metric) or {}).get("value")


def _shown(metric: str, row: dict[str, Any]) -> str:
    value = value_of(row, metric)
    return f"{metric} {'?' if value is None else f'{value:.4f}'}"


def save(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """Write the comparison as far as it is known."""
    body = {
        "format": 1,
        "sweep": sweep.name,
        "metric": sweep.metric,
        "candidates": ranked(rows, sweep.metric),
    }
    sweep.file().parent.mkdir(parents=True, exist_ok=True)
    publish.json_file(sweep.file(), body)


def table(rows: list[dict[str, Any]], metric: str) -> str:
    """The comparison, best first: the metric, the others, the run and the settings."""
    others = [m.name for m in metrics.METRICS if m.name != metric]
    names = [metric, *[n for n in others if any(value_of(row, n) is not None for row in rows)]]
    lines = ["".join(f"{name:>12}" for name in names) + f"  {'run':<22}  settings"]
    for row in rows:
        cells = [value_of(row, name) for name in names]
        text = "".join(f"{'-' if cell is None else f'{cell:.4f}':>12}" for cell in cells)
        run_text = row.get("run") or row["state"]
        lines.append(f"{text}  {run_text:<22}  {' '.join(row['settings'])}")
    return "\n".join(lines)
