"""Plans the chosen stages, or runs them in order and keeps the state file true at every moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import metrics
from kit import console, report
from workflow.stages import StageFailed, Stages
from workflow.state import State
from workflow.task import Stage


def idle(stage: Stage, args) -> str:
    """Why a stage needs no work in this call, '' if it does."""
    if stage.done():
        return f"done: {stage.says()}"
    return stage.skipped() if args.stage == "all" else ""


def plan(made: dict[str, Stage], args, log: Path) -> tuple[list[report.Check], dict[str, Any]]:
    """(checks, {stage: what it would do}), from each command's own dry run where it can be had."""
    checks: list[report.Check] = []
    plans: dict[str, Any] = {}
    stages, waiting = Stages(log), ""
    for name in args.chosen:
        stage = made[name]
        if why := idle(stage, args):
            done = stage.done()
            why += f"; again if {waiting} gives it other inputs" if done and waiting else ""
            checks.append(report.Check(name, "skip", why))
            plans[name] = {"state": "done" if done else "skipped", "why": why}
            continue
        found = stage.checks()
        checks += found
        plans[name] = {"state": "would run", "why": stage.why()}
        if waiting:
            text = f"would run ({stage.why()}), planned once {waiting} is done"
            checks.append(report.Check(name, "skip", text))
        elif report.worst(found) != "fail":
            checks.append(_planned(stage, stages, plans[name]))
        waiting = waiting or name
    return checks, plans


def _planned(stage: Stage, stages: Stages, facts: dict[str, Any]) -> report.Check:
    try:
        with stages.stage(f"plan {stage.name}") as running:
            facts["plan"] = stage.plan(running)
    except StageFailed as failure:
        return report.failed(stage.name, failure)
    return report.Check(stage.name, "ok", f"would run ({facts['why']}): {running.fact}")


def work(made: dict[str, Stage], state: State, args, log: Path) -> dict[str, Any]:
    """Run the chosen stages in order; the result of all. Raises what ended the first that failed.

    {"status", "run", "before", "after", "stages": {name: its result}, "state": the file}
    """
    stages, results = Stages(log), {}
    state.open(len(args.chosen))
    try:
        for name in args.chosen:
            stage = made[name]
            if why := idle(stage, args):
                print(f"skip  {name:<12} {'':>12}  {why}", flush=True)
                results[name] = stage.result if stage.done() else {"skipped": why}
                continue
            with stages.stage(name) as running:
                _run(stage, running, state)
                running.says(stage.says())
            results[name] = stage.result
    except BaseException as error:
        problem = isinstance(error, Exception)
        state.end("failed" if problem else "stopped", **({"error": str(error)} if problem else {}))
        raise
    state.end("completed")
    runs = [
        results[name]["run"]
        for name in ("lora", "rlhf", "eval")
        if results.get(name, {}).get("run")
    ]
    found = results.get("eval", {})
    warn_of_worse(found.get("reports", {}))
    body = {"status": "completed", "run": runs[-1] if runs else None}
    body |= {key: found.get(key) for key in ("before", "after")}
    return body | {"stages": results, "state": str(state.file)}


def warn_of_worse(reports: dict[str, Any]) -> None:
    """Say it where RLHF answers worse than the adapter that it started from."""
    if len(reports) == 2:
        name = metrics.RANKED[0]
        before, after = (report["after"][name]["value"] for report in reports.values())
        if metrics.worse(name, after, before):
            console.warn(
                f"after RLHF {metrics.label(name)} is {after:.3f}, before it {before:.3f}: "
                f"use the adapter of the lora stage"
            )


def _run(stage: Stage, running, state: State) -> None:
    """One stage: its prerequisites, its commands, its record."""
    missing = [check for check in stage.checks() if check.status == "fail"]
    for check in missing[1:]:
        console.note(f"{check.name}: {check.found}; {check.fix}")
    if missing:
        raise console.Problem(f"{missing[0].name}: {missing[0].found}", missing[0].fix)
    state.start_stage(stage.name, stage.inputs(), stage.kept())
    try:
        result = stage.run(running)
    except BaseException as error:
        problem = isinstance(error, Exception)
        state.finish_stage(stage.name, "failed" if problem else "stopped")
        raise
    state.finish_stage(stage.name, "completed", result=result)
