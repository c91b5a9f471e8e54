"""The report of an evaluation: one JSON object, its table for the terminal, its HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters import metrics
from evaluation import example_rows
from kit import publish

SHOWN = 2000  # characters of a prompt or answer that a report keeps


def row_facts(example: example_rows.Example, columns: Sequence[Any], i: int) -> dict[str, Any]:
    """Row `i` as reports show it; `columns` are (model) or (model, base)."""
    facts: dict[str, Any] = {
        "row": example.number,
        "prompt": example.question[:SHOWN],
        "reference": example.references[0][:SHOWN],
    }
    for name, column in zip(("model", "base"), columns, strict=False):
        facts[name] = {"prediction": column.predictions[i][:SHOWN]} | column.scores.row(i)
    return facts


def regressions(examples, columns: Sequence[Any], most: int) -> list[dict[str, Any]]:
    """The rows that the model answers worse than its base, worst first (by metrics.ROWS_RANKED)."""
    if len(columns) < 2:
        return []
    gaps = []
    for i in range(len(examples)):
        ours, base = (column.scores.row(i) for column in columns)
        gaps.append((*(ours[name] - base[name] for name in metrics.ROWS_RANKED), i))
    worse = sorted(gap for gap in gaps if gap[:-1] < (0.0,) * len(metrics.ROWS_RANKED))
    return [row_facts(examples[gap[-1]], columns, gap[-1]) for gap in worse[:most]]


def table(report: dict[str, Any]) -> str:
    """The metrics as lines for a terminal: model, base and their difference where there is one."""
    heads = ["", report["name"]]
    lines = [heads]
    if report["base"]:
        heads += ["base", "difference"]
    for name, value in report["metrics"].items():
        line = [metrics.label(name), metrics.cell(name, value)]
        if report["base"]:
            line.append(metrics.cell(name, report["base"].get(name)))
            line.append(metrics.cell(name, report["difference"].get(name), sign=True))
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
