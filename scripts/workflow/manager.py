"""Plans the chosen tasks, or runs them in order and keeps the state file current throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import metrics
from kit import console, report
from workflow.manager_state import ManagerState
from workflow.stages import Stage, StageFailed, StageSeries
from workflow.task import Task


def idle_reason(task: Task, args) -> str:
    """Why a task needs no work in this call, '' if it does."""
    if task.done():
        return f"done: {task.summary()}"
    return task.skip_reason() if args.stage == "all" else ""


def plan(tasks: dict[str, Task], args, log: Path) -> tuple[list[report.Check], dict[str, Any]]:
    """(checks, {task: what it would do}), from each command's own dry run where possible."""
    checks: list[report.Check] = []
    plans: dict[str, Any] = {}
    series, first_to_run = StageSeries(log), ""
    for name in args.chosen:
        task = tasks[name]
        if why := idle_reason(task, args):
            done = task.done()
            again = f"; again if {first_to_run} gives it other inputs"
            why += again if first_to_run and done else ""
            checks.append(report.Check(name, "skip", why))
            plans[name] = {"state": "done" if done else "skipped", "why": why}
            continue
        prerequisites = task.checks()
        checks += prerequisites
        plans[name] = {"state": "would run", "why": task.why()}
        if first_to_run:
            text = f"would run ({task.why()}), planned once {first_to_run} is done"
            checks.append(report.Check(name, "skip", text))
        elif report.worst(prerequisites) != "fail":
            checks.append(_plan_task(task, series, plans[name]))
        first_to_run = first_to_run or name
    return checks, plans


def _plan_task(task: Task, series: StageSeries, facts: dict[str, Any]) -> report.Check:
    try:
        with series.stage(f"plan {task.name}") as stage:
            facts["plan"] = task.plan(stage)
    except StageFailed as failure:
        return report.failed(task.name, failure)
    return report.Check(task.name, "ok", f"would run ({facts['why']}): {stage.fact}")


def work(tasks: dict[str, Task], state: ManagerState, args, log: Path) -> dict[str, Any]:
    """Run the chosen tasks in order; the result of all. Raises what ended the first that failed.

    {"status", "run", "before", "after", "stages": {name: its result}, "state": the file}
    """
    series, results = StageSeries(log), {}
    state.open(len(args.chosen))
    try:
        for name in args.chosen:
            task = tasks[name]
            if why := idle_reason(task, args):
                console.result(f"skip  {name:<12} {'':>12}  {why}")
                results[name] = task.result if task.done() else {"skipped": why}
                continue
            with series.stage(name) as stage:
                _run_task(task, stage, state)
                stage.set_fact(task.summary())
            results[name] = task.result
    except BaseException as error:
        state.end(_end_state(error), **_error_field(error))
        raise
    state.end("completed")
    return _body(results, state)


def _end_state(error: BaseException) -> str:
    return "failed" if isinstance(error, Exception) else "stopped"


def _error_field(error: BaseException) -> dict[str, str]:
    return {"error": str(error)} if isinstance(error, Exception) else {}


def _body(results: dict[str, Any], state: ManagerState) -> dict[str, Any]:
    runs = [results.get(name, {}).get("run") for name in ("lora", "rlhf", "eval")]
    evaluation = results.get("eval", {})
    warn_of_worse(evaluation.get("reports", {}))
    return {
        "status": "completed",
        "run": ([None] + [run for run in runs if run])[-1],
        "before": evaluation.get("before"),
        "after": evaluation.get("after"),
        "stages": results,
        "state": str(state.file),
    }


def warn_of_worse(reports: dict[str, Any]) -> None:
    """Warn where RLHF answers worse than the adapter that it started from."""
    if len(reports) == 2:
        name = metrics.RANKED[0]
        before, after = (report["after"][name]["value"] for report in reports.values())
        if metrics.worse(name, after, before):
            console.warn(
                f"after RLHF {metrics.label(name)} is {after:.3f}, before it {before:.3f}: "
                f"use the adapter of the lora stage"
            )


def _run_task(task: Task, stage: Stage, state: ManagerState) -> None:
    """One task: its prerequisites, its commands, its record."""
    missing = [check for check in task.checks() if check.status == "fail"]
    for check in missing[1:]:
        console.note(f"{check.name}: {check.found}; {check.fix}")
    if missing:
        raise console.Problem(f"{missing[0].name}: {missing[0].found}", missing[0].fix)
    state.start_task(task.name, task.inputs(), task.reusable())
    try:
        result = task.run(stage)
    except BaseException as error:
        state.finish_task(task.name, _end_state(error))
        raise
    state.finish_task(task.name, "completed", result=result)
