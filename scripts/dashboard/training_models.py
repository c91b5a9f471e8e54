"""The adapter versions there are, as the API and the page give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters import gate, version_store
from adapters.exports import vllm
from dashboard import training_runs as runs
from kit import console, paths


def everything() -> list[dict[str, Any]]:
    """Every version, the newest first and retired ones last; a damaged one says so in `error`."""
    root = paths.folder("adapters")
    found = [
        v for name in version_store.all_names(root) for v in version_store.versions(root, name)
    ]
    described = [describe(version) for version in found]
    described.sort(key=lambda v: (v["created"] or "", v["reference"]), reverse=True)
    return sorted(described, key=lambda v: bool(v["retired"]))


def describe(version: version_store.Version) -> dict[str, Any]:
    """One version; metrics and base_metrics: {name: {"value", "low", "high"}}."""
    names = {"reference": version.reference, "name": version.name, "version": version.version}
    facts: dict[str, Any] = names | {"created": None, "retired": None, "error": None}
    try:
        card = version.card
        facts["retired"] = version.retired
    except console.Problem as problem:
        return facts | {"error": str(problem)}
    evaluated = card.get("evaluation") or {}
    scored = gate.score(evaluated.get("metrics") or {})
    return facts | {
        "created": card["created"],
        "base": card["base"]["name"],
        "r": card["adapter"]["r"],
        "parameters": card["adapter"]["parameters"],
        "bytes": version.bytes,
        "run": card["run"]["id"],
        "report": _report(card["run"]["id"]),
        "score": {"metric": scored[0], "value": scored[1]} if scored else None,
        "metrics": evaluated.get("metrics") or {},
        "base_metrics": evaluated.get("base") or {},
        "rows": (evaluated.get("dataset") or {}).get("rows"),
        "gate": card["gate"]["status"],
        "canary": runs.read(version.beside("canary")) or None,
        "vllm": vllm.command(version),
    }


def _report(run_id: str) -> bool:
    """Whether the run's report.html still lies here."""
    named = runs.RUN_ID.fullmatch(run_id) is not None
    return named and Path(paths.folder("runs"), run_id, "report.html").is_file()
