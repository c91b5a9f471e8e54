"""The gate: a new version may not be worse than the best that there is, on the same evaluation.

Worse means: a metric below the low end of the best one's bootstrap interval. The best is the
version (or the base model) with the highest score among those that were evaluated on the same
data set, by SHA-256, in the same way. Outcomes, kept in the card:

    passed       compared, and no metric dropped beyond the interval
    first        evaluated, and there is nothing to compare with
    unevaluated  the run has no report.json
    forced       it dropped, and somebody said why it is registered all the same
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import paths
from adapters.card import read_json
from adapters.store import Version
from kit import console

METRICS = ("f1", "rouge_l", "exact_match", "bleu")  # the first one that both have decides "best"
LOWER_IS_BETTER = ("loss", "eval_loss")
PASSED = ("passed", "first", "forced")  # what model_registry.py select accepts


def evaluation(file: Path) -> dict[str, Any] | None:
    """What a report.json measured: dataset, settings, metrics, base; None where there is none.

    metrics and base: {name: {"value", "low", "high"}}; a bare number is its own interval.
    """
    report = read_json(file)
    metrics = _metrics(report.get("metrics"))
    if not metrics:
        if report:
            console.warn(
                f"{paths.show(file)}: no metrics in it; the gate takes it as no evaluation"
            )
        return None
    dataset = report.get("dataset") or {}
    dataset = {k: dataset[k] for k in ("path", "sha256", "rows") if k in dataset}
    if dataset.get("path"):
        dataset["path"] = Path(dataset["path"]).name
    return {
        "dataset": dataset,
        "settings": {k: report[k] for k in ("rag", "generation") if report.get(k)},
        "metrics": metrics,
        "base": _metrics(report.get("base")),
    }


def _metrics(section: Any) -> dict[str, dict[str, float]]:
    found = {}
    section = section if isinstance(section, dict) else {}
    section = section.get("metrics") if isinstance(section.get("metrics"), dict) else section
    for name, entry in section.items():
        entry = entry if isinstance(entry, dict) else {"value": entry}
        value = entry.get("value")
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            low, high = entry.get("low"), entry.get("high")
            found[name] = {
                "value": value,
                "low": value if low is None else low,
                "high": value if high is None else high,
            }
    return found


def same_evaluation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two evaluations asked the same questions in the same way."""
    digest = a["dataset"].get("sha256")
    return bool(digest) and digest == b["dataset"].get("sha256") and _key(a) == _key(b)


def _key(evaluated: dict[str, Any]) -> str:
    return json.dumps(evaluated.get("settings") or {}, sort_keys=True)


def score(metrics: dict[str, dict[str, float]]) -> tuple[str, float] | None:
    """(metric, value) that versions are ranked by, None where no known metric was measured."""
    return next(((name, metrics[name]["value"]) for name in METRICS if name in metrics), None)


def best(evaluated: dict[str, Any], versions: list[Version]) -> tuple[str, dict] | None:
    """(reference or the base's name, metrics) of the best on the same evaluation, None for none."""
    candidates = [("the base model", evaluated["base"])] if evaluated["base"] else []
    for version in versions:
        other = version.card.get("evaluation")
        if other and not version.retired and same_evaluation(evaluated, other):
            candidates.append((version.reference, other["metrics"]))
    names = [n for n in METRICS if n in evaluated["metrics"]]
    decisive = next((n for n in names if any(n in m for _, m in candidates)), None)
    comparable = [c for c in candidates if decisive in c[1]]
    return max(comparable, key=lambda c: c[1][decisive]["value"], default=None)


def drops(new: dict[str, dict], old: dict[str, dict]) -> list[dict[str, Any]]:
    """The metrics whose new value lies beyond the worse end of the old one's interval."""
    found = []
    for name in sorted(set(new) & set(old)):
        lower = name in LOWER_IS_BETTER
        bound = old[name]["high" if lower else "low"]
        value = new[name]["value"]
        if value > bound if lower else value < bound:
            found.append(
                {"metric": name, "value": value, "best": old[name]["value"], "bound": bound}
            )
    return found


def decide(
    evaluated: dict[str, Any] | None, versions: list[Version], force: str | None = None
) -> dict[str, Any]:
    """The gate's outcome for the card. Problem for a drop that is not forced."""
    if evaluated is None:
        compared = best_known(versions)
        if compared:
            console.warn(
                f"not evaluated, so not compared with {compared}: "
                f"python scripts/eval.py writes the report"
            )
        return {"status": "unevaluated"}
    found = best(evaluated, versions)
    if found is None:
        return {"status": "first"}
    reference, metrics = found
    worse = drops(evaluated["metrics"], metrics)
    outcome = {"compared_with": reference, "metrics": metrics, "drops": worse}
    if not worse:
        return {"status": "passed"} | outcome
    if force is None:
        raise console.Problem(
            f"worse than {reference} on the same evaluation: {said(worse)}",
            'train again, or register it with --force "REASON"; the reason is kept',
        )
    return {"status": "forced", "reason": force} | outcome


def best_known(versions: list[Version]) -> str | None:
    """The reference of the highest version that was evaluated."""
    known = [v for v in versions if not v.retired and v.card.get("evaluation")]
    return known[-1].reference if known else None


def said(worse: list[dict[str, Any]]) -> str:
    """'f1 0.41 (best 0.62, at least 0.55 needed)' for each drop."""
    return ", ".join(
        f"{d['metric']} {d['value']:.4g} (best {d['best']:.4g}, "
        f"{'at most' if d['metric'] in LOWER_IS_BETTER else 'at least'} {d['bound']:.4g} needed)"
        for d in worse
    )
