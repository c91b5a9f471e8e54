"""The HTML page of a report: one file without scripts, which loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from adapters import metrics
from evaluation import curve

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #fff; --line: #d9dee5;
  --band: #f4f6f9; --model: #0b62c4; --base: #b45309; --good: #0f7a3d; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #a3adbb; --paper: #14181f;
  --line: #323a46; --band: #1c222b; --model: #6fb1ff; --base: #f0a04b; --good: #5fce8c;
  --bad: #ff8a7d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .3rem 0; } .soft, caption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom-width: 2px; } .numbers td { font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 11rem; max-width: 22rem; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; background: var(--band); border-radius: .4rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
polyline { fill: none; stroke-width: 2; }
.training polyline { stroke: var(--model); } .training circle { fill: var(--model); }
.validation polyline { stroke: var(--base); stroke-dasharray: 6 3; }
.validation circle { fill: var(--base); }
.key { display: inline-block; width: 1.6rem; border-top: 3px solid var(--model);
  vertical-align: middle; margin: 0 .3rem 0 .9rem; }
.key.v { border-top: 3px dashed var(--base); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--band); padding: .8rem; border-radius: .4rem; }
"""


def render(body: dict[str, Any], run: Path | None) -> str:
    """The page for a report; `run` is the run folder whose loss curve belongs to it."""
    drawing = curve.svg(curve.read(run)) if run else ""
    parts = [
        f"<h1>Evaluation of {escape(body['name'])}</h1>",
        f'<p class="soft">{escape(_origin(body))}</p>',
        _facts(body),
        "<h2>Metrics</h2>",
        _metrics(body),
    ]
    if drawing:
        parts += ["<h2>Loss during training</h2>", _legend(), drawing]
    if body["base"]:
        parts += ["<h2>Worst regressions</h2>", _regressions(body)]
    parts += ["<h2>Samples</h2>", _rows(body["samples"], bool(body["base"]))]
    settings = escape(json.dumps(body["settings"], indent=2, ensure_ascii=False))
    parts += [f"<details><summary>Settings</summary><pre>{settings}</pre></details>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Evaluation of {escape(body['name'])}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def verdict(name: str, cell: dict[str, float | None] | None) -> str:
    """'better', 'worse', or 'no clear difference' where the difference's interval contains 0."""
    if cell is None or None in cell.values():
        return "not known"
    if cell["low"] <= 0 <= cell["high"]:
        return "no clear difference"
    return "better" if (cell["value"] > 0) == metrics.higher_is_better(name) else "worse"


def _origin(body: dict[str, Any]) -> str:
    day, _, time = body["created"].partition("-")
    return (
        f"{body['dataset']['rows']} rows of {body['dataset']['path']} · "
        f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]} UTC"
    )


def _facts(body: dict[str, Any]) -> str:
    settings = body["settings"]
    width = settings.get("quantization", {})
    loaded = "4-bit" if width.get("load_in_4bit") else "8-bit" if width.get("load_in_8bit") else ""
    facts = {
        "Model": body["model"],
        "Base model": body["base_model"],
        "Loaded": loaded and f"{loaded} on {settings['device']}",
        "Retrieval": _retrieval(settings),
        "Dataset SHA-256": body["dataset"]["sha256"],
        "BLEU signature": body["bleu_signature"],
    }
    pairs = (f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v)
    return f"<dl>{''.join(pairs)}</dl>"


def _retrieval(settings: dict[str, Any]) -> str:
    """How many passages prompts got, and in how many rows these hold a right answer."""
    rag, retrieval = settings["rag"], settings.get("retrieval") or {}
    text = f"{rag['top_k']} passages from {rag['collection']}" if rag["collection"] else ""
    if retrieval.get("answer_found") is not None:
        text += f"; an answer stands in those of {retrieval['answer_found']:.0%} of the rows"
    return text


def _metrics(body: dict[str, Any]) -> str:
    base, share = body["base"], body["settings"]["metrics"]["confidence"]
    heads = ["Metric", "Model"] + (["Base", "Difference", ""] if base else [])
    lines = []
    for name, cell in body["metrics"].items():
        cells = [metrics.cell(name, cell)]
        if base:
            gap = body["difference"].get(name)
            words = verdict(name, gap)
            cells += [
                metrics.cell(name, base.get(name)),
                metrics.cell(name, gap, sign=True),
            ]
            kind = {"better": "good", "worse": "bad"}.get(words, "soft")
            cells.append(f'<span class="{kind}">{words}</span>')
        lines.append(f"<tr><th scope=row>{escape(metrics.label(name))}</th>{_cells(cells)}</tr>")
    return (
        f'<div class="wide"><table class="numbers"><caption>[{share:.0%} bootstrap interval]. '
        f"{metrics.ranges()}."
        f"</caption>{_head(heads)}<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _legend() -> str:
    return (
        '<p class="soft"><span class="key" style="margin-left:0"></span>training'
        '<span class="key v"></span>validation</p>'
    )


def _regressions(body: dict[str, Any]) -> str:
    if not body["regressions"]:
        order = ", then ".join(map(metrics.label, metrics.ROWS_RANKED))
        return f"<p>No row is answered worse than by the base (by {order}).</p>"
    return _rows(body["regressions"], True)


def _rows(rows: list[dict[str, Any]], with_base: bool) -> str:
    names = ["model", "base"] if with_base else ["model"]
    heads = ["Row", "Prompt", "Reference", *(n.capitalize() for n in names)]
    first = metrics.ROWS_RANKED[0]
    label = metrics.label(first)
    heads += [f"{label} {n}" if with_base else label for n in names]
    lines = []
    for row in rows:
        texts = [row["prompt"], row["reference"], *(row[n]["prediction"] for n in names)]
        cells = [str(row["row"])] + [f'<div class="text">{escape(t)}</div>' for t in texts]
        cells += [f"{row[n][first]:.2f}" for n in names]
        lines.append(f"<tr>{_cells(cells)}</tr>")
    return f'<div class="wide"><table>{_head(heads)}<tbody>{"".join(lines)}</tbody></table></div>'


def _head(names: Iterable[str]) -> str:
    return f"<thead><tr>{''.join(f'<th scope=col>{n}</th>' for n in names)}</tr></thead>"


def _cells(values: Iterable[str]) -> str:
    """Table cells of HTML that is escaped already."""
    return "".join(f"<td>{value}</td>" for value in values)
