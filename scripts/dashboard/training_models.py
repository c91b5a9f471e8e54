"""The adapter versions there are, as the API and the page give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import gate, version_store
from adapters.card_schema import BOUNDS
from adapters.exports import vllm
from dashboard import training_runs as runs
from kit import console, paths
from training import run_schema
from transfer.adapter_units import RUN_ID


def everything() -> list[dict[str, Any]]:
    """Every version, the newest first and retired ones last; a damaged one says so in `error`."""
    root = paths.folder("adapters")
    described = []
    for name in version_store.all_names(root):
        described += [describe(version) for version in version_store.versions(root, name)]
    described.sort(key=lambda v: (v["created"] or "", v["reference"]), reverse=True)
    return sorted(described, key=lambda v: bool(v["retired"]))


def describe(version: version_store.Version) -> dict[str, Any]:
    """One version; metrics and base_metrics: {name: {"value", "low", "high"}}.

    Whatever is wrong with its card, the version is one line in `error`, and hides no other.
    """
    names = {"reference": version.reference, "name": version.name, "version": version.version}
    facts: dict[str, Any] = names | {"created": None, "retired": None, "error": None}
    try:
        return facts | runs.clean(_described(version))
    except console.Problem as problem:
        return facts | {"error": console.printable(str(problem))}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
            ArithmeticError) as error:  # fmt: skip
        why = console.printable(f"{type(error).__name__}: {error}")[:200]
        return facts | {"error": f"card.json: damaged ({why}); copy the version again"}


def _described(version: version_store.Version) -> dict[str, Any]:
    card, retired = version.card, version.retired
    evaluated = card.get("evaluation") or {}
    metrics = _metrics(evaluated.get("metrics"))
    scored = gate.score(metrics)
    rows = (evaluated.get("dataset") or {}).get("rows")
    return {
        "created": card["created"],
        "retired": retired and {"reason": str(retired.get("reason") or "")},
        "base": card["base"]["name"],
        "r": card["adapter"]["r"],
        "parameters": card["adapter"]["parameters"],
        "bytes": version.bytes,
        "run": card["run"]["id"],
        "report": _report(card["run"]["id"]),
        "score": {"metric": scored[0], "value": scored[1]} if scored else None,
        "metrics": metrics,
        "base_metrics": _metrics(evaluated.get("base")),
        "rows": rows if run_schema.is_count(rows) else None,
        "gate": card["gate"]["status"],
        "canary": _canary(version.fact_file("canary")),
        "vllm": vllm.command(version),
    }


def _metrics(measured: Any) -> dict[str, dict[str, float]]:
    """The metrics of a card that are three numbers each."""
    return {
        str(name): {bound: metric[bound] for bound in BOUNDS}
        for name, metric in (measured or {}).items()
        if all(run_schema.is_measure(metric.get(bound)) for bound in BOUNDS)
    }


def _canary(file: Path) -> dict[str, Any] | None:
    """What the canary's file says, None if there is none or it is damaged."""
    canary = runs.read(file)
    numbers = [canary.get("change", 0), canary.get("different_answers", 0)]
    if not canary or not all(map(run_schema.is_measure, numbers)):
        return None
    prompts = canary.get("prompts")
    return canary | {
        "ok": canary.get("ok") is True,
        "change": numbers[0],
        "different_answers": numbers[1],
        "prompts": prompts if isinstance(prompts, list) else [],
    }


def _report(run_id: str) -> bool:
    """Whether the run's report.html is still here."""
    named = RUN_ID.fullmatch(run_id) is not None
    return named and runs.has(Path(paths.folder("runs"), run_id), "report.html")
