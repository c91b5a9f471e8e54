"""The gate: a new version may not be worse than the best that there is, on the same evaluation.

The same evaluation: one data set, by SHA-256, asked in the same way (retrieval, lengths). The best
is the version with the highest score there. Worse means: a metric beyond the worse end of the
best one's bootstrap interval. Outcomes, kept in the card:

    passed       compared, and nothing dropped beyond the interval
    first        evaluated, and there is nothing to compare with
    below_base   no version is better, but the base model itself is: registered, never selected
    unevaluated  the run has no report.json
    forced       it is worse, and was registered with --force REASON
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapters import card_schema, metrics
from adapters.card import read_json
from adapters.version_store import Version
from kit import console, paths

PASSED = ("passed", "first", "forced")  # what model_registry.py select accepts


def evaluation(file: Path) -> dict[str, Any] | None:
    """What a report.json measured: dataset, settings, metrics, base; None if there is none.

    metrics and base: {name: {"value", "low", "high"}}; a bare number is its own interval, and a
    value that is not known (null, NaN) is not a measurement. Problem for a damaged report.
    """
    report = read_json(file)
    sections = {key: report.get(key) for key in ("metrics", "base", "difference")}
    dataset = report.get("dataset") or {}
    wrong = _damage(sections, dataset)
    if wrong:
        raise console.Problem(
            f"{paths.show(file)}: {wrong}", "measure it again: python scripts/eval.py"
        )
    measured = _metrics(sections["metrics"])
    if not measured:
        if report:
            console.warn(
                f"{paths.show(file)}: no metrics in it; the gate takes it as no evaluation"
            )
        return None
    dataset = {k: dataset[k] for k in ("path", "sha256", "rows") if k in dataset}
    if dataset.get("path"):
        dataset["path"] = Path(dataset["path"]).name
    return {
        "dataset": dataset,
        "settings": {k: report[k] for k in ("rag", "generation") if report.get(k)},
        "metrics": measured,
        "base": _metrics(sections["base"]),
        "difference": _metrics(sections["difference"]),  # model - base, paired
    }


def _damage(sections: dict[str, Any], dataset: Any) -> str | None:
    """The first part of a report that eval.py would not have written, None if there is none."""
    if not isinstance(dataset, dict) or not isinstance(dataset.get("path", ""), str):
        return "its dataset is damaged"
    for section, entries in sections.items():
        for name, entry in _entries(entries):
            for key in ("low", "high"):
                if not isinstance(entry.get(key), int | float | None):
                    return f"{section}.{name}.{key} is no number"
    return None


def _entries(section: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, {"value", ...}) of each metric in a section of a report."""
    section = section if isinstance(section, dict) else {}
    section = section.get("metrics") if isinstance(section.get("metrics"), dict) else section
    return [(k, v if isinstance(v, dict) else {"value": v}) for k, v in section.items()]


def _metrics(section: Any) -> dict[str, dict[str, float]]:
    """The metrics whose value is known; a bound that is not known is the value itself."""
    known = {}
    for name, entry in _entries(section):
        value, low, high = (_finite(entry.get(key)) for key in ("value", "low", "high"))
        if value is not None:
            known[name] = {
                "value": value,
                "low": value if low is None else low,
                "high": value if high is None else high,
            }
    return known


def _finite(value: Any) -> float | None:
    """A number that comparisons can use; None for NaN, the infinities, and other values."""
    return value if card_schema.is_number(value) else None


def same_evaluation(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two evaluations asked the same questions in the same way."""
    digest = a["dataset"].get("sha256")
    return bool(digest) and digest == b["dataset"].get("sha256") and _key(a) == _key(b)


def _key(evaluated: dict[str, Any]) -> str:
    return json.dumps(evaluated.get("settings") or {}, sort_keys=True)


def score(measured: dict[str, dict[str, float]]) -> tuple[str, float] | None:
    """(metric, value) that versions are ranked by, None where no known metric was measured."""
    return next(((m, measured[m]["value"]) for m in metrics.RANKED if m in measured), None)


def best(evaluated: dict[str, Any], versions: list[Version]) -> tuple[str, dict] | None:
    """(reference, metrics) of the best version on the same evaluation, None if there is none."""
    measured = []
    for version in versions:
        other = version.card.get("evaluation")
        if other and same_evaluation(evaluated, other):
            measured.append((version.reference, _metrics(other["metrics"])))
    ours = evaluated["metrics"]
    shared = (m for m in metrics.RANKED if m in ours and any(m in theirs for _, theirs in measured))
    decisive = next(shared, None)
    known = [pair for pair in measured if decisive in pair[1]]
    return max(known, key=lambda p: metrics.merit(decisive, p[1][decisive]["value"]), default=None)


def drops(new: dict[str, dict], old: dict[str, dict]) -> list[dict[str, Any]]:
    """The metrics whose new value is beyond the worse end of the old one's interval."""
    worse = []
    for name in sorted(set(new) & set(old)):
        bound = old[name]["low" if metrics.higher_is_better(name) else "high"]
        value = new[name]["value"]
        if metrics.worse(name, value, bound):
            worse.append(
                {"metric": name, "value": value, "best": old[name]["value"], "bound": bound}
            )
    return worse


def below_base(evaluated: dict[str, Any]) -> list[str]:
    """The metrics in which the adapter is worse than its base, by the paired difference if any."""
    paired = evaluated["difference"]
    if not paired:
        return [d["metric"] for d in drops(evaluated["metrics"], evaluated["base"])]
    best_ends = {m: d["high" if metrics.higher_is_better(m) else "low"] for m, d in paired.items()}
    return [name for name, end in sorted(best_ends.items()) if metrics.worse(name, end, 0)]


def decide(
    evaluated: dict[str, Any] | None, versions: list[Version], force: str | None = None
) -> dict[str, Any]:
    """The gate's outcome against `versions`, for the card. Problem for a drop without `force`."""
    if evaluated is None:
        console.warn("not evaluated: python scripts/eval.py measures it; never selected like this")
        return {"status": "unevaluated"}
    champion, weaker = best(evaluated, versions), below_base(evaluated)
    outcome: dict[str, Any] = {"below_base": weaker} if evaluated["base"] else {}
    worse = []
    if champion:
        reference, best_metrics = champion
        worse = drops(evaluated["metrics"], best_metrics)
        outcome |= {"compared_with": reference, "drops": worse}
        if worse and force is None:
            raise console.Problem(
                f"worse than {reference} on the same evaluation: {drops_in_words(worse)}",
                'train again, or register it with --force "REASON"; the reason is kept',
            )
    if force is not None and (worse or weaker):
        return {"status": "forced", "reason": force} | outcome
    if weaker:
        console.warn(f"worse than its own base model ({', '.join(weaker)}): never selected")
        return {"status": "below_base"} | outcome
    return {"status": "passed" if champion or evaluated["base"] else "first"} | outcome


def drops_in_words(worse: list[dict[str, Any]]) -> str:
    """'f1 0.41 (best 0.62, at least 0.55 needed)' for each drop."""
    parts = []
    for drop in worse:
        needed = "at least" if metrics.higher_is_better(drop["metric"]) else "at most"
        parts.append(
            f"{drop['metric']} {drop['value']:.4g} "
            f"(best {drop['best']:.4g}, {needed} {drop['bound']:.4g} needed)"
        )
    return ", ".join(parts)
