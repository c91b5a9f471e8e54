"""The report of an evaluation: one JSON object, its table for the terminal, its HTML twin."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation import rows
from kit import publish

LABELS = {
    "exact_match": "Exact match",
    "f1": "F1",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "loss": "Loss",
}
SHOWN = 2000  # characters of a prompt or answer that a report keeps


def row_facts(example: rows.Example, columns: Sequence[Any], i: int) -> dict[str, Any]:
    """Row `i` as reports show it; `columns` are (model) or (model, base)."""
    found: dict[str, Any] = {
        "row": example.number,
        "prompt": example.question[:SHOWN],
        "reference": example.references[0][:SHOWN],
    }
    for name, column in zip(("model", "base"), columns, strict=False):
        found[name] = {
            "prediction": column.predictions[i][:SHOWN],
            "exact_match": column.scores.exact_match[i],
            "f1": column.scores.f1[i],
            "rouge_l": column.scores.rouge_l[i],
        }
        if column.losses and column.losses.tokens[i]:
            found[name]["loss"] = column.losses.total[i] / column.losses.tokens[i]
    return found


def regressions(examples, columns: Sequence[Any], most: int) -> list[dict[str, Any]]:
    """The rows that the model answers worse than its base, by F1, then ROUGE-L; worst first."""
    if len(columns) < 2:
        return []
    ours, base = (column.scores for column in columns)
    gaps = [
        (ours.f1[i] - base.f1[i], ours.rouge_l[i] - base.rouge_l[i], i)
        for i in range(len(examples))
    ]
    worse = sorted(gap for gap in gaps if gap[:2] < (0.0, 0.0))
    return [row_facts(examples[i], columns, i) for _, _, i in worse[:most]]


def now() -> str:
    """The time as reports and their names have it: 20261121-081530 (UTC)."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M%S}"


def number(name: str, value: float | None) -> str:
    """A metric's value with the digits that reports print; '-' where it is not known."""
    if value is None:
        return "-"
    return f"{value:.2f}" if name == "bleu" else f"{value:.4f}"


def cell(name: str, value: dict[str, float | None] | None, sign: bool = False) -> str:
    """'0.3002 [0.2432, 0.3636]', with a plus where `sign` is wanted; '-' for what is missing."""
    if value is None or value["value"] is None:
        return "-"
    plus = "+" if sign and value["value"] >= 0 else ""
    low, high = number(name, value["low"]), number(name, value["high"])
    return f"{plus}{number(name, value['value'])} [{low}, {high}]"


def table(report: dict[str, Any]) -> str:
    """The metrics as lines for a terminal: model, base and their difference where there is one."""
    heads = ["", report["name"]]
    lines = [heads]
    if report["base"]:
        heads += ["base", "difference"]
    for name, value in report["metrics"].items():
        line = [LABELS[name], cell(name, value)]
        if report["base"]:
            line.append(cell(name, report["base"].get(name)))
            line.append(cell(name, report["difference"].get(name), sign=True))
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in text)


def write(report: dict[str, Any], folder: Path, run: Path | None) -> list[Path]:
    """Publish reports/eval_<name>_<time>.json and .html, and report.json, .html in the run."""
    from evaluation import page

    name = "".join(c if c.isalnum() or c in "-._" else "-" for c in report["name"])
    stem = folder / f"eval_{name}_{report['created']}"
    count = 1
    while stem.with_name(f"{stem.name}.json").exists():  # a second one within the same second
        count += 1
        stem = folder / f"eval_{name}_{report['created']}-{count}"
    html = page.render(report, run)
    written = []
    for target in [stem] + ([run / "report"] if run else []):
        for suffix, publisher in ((".html", _text), (".json", publish.json_file)):
            path = target.with_name(target.name + suffix)
            publisher(path, html if suffix == ".html" else report)
            written.append(path)
    return written


def _text(path: Path, text: str) -> None:
    with publish.file(path) as f:
        f.write(text)
