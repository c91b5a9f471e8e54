"""The table of every job on every known host: where it is, how far, what it cost."""

from __future__ import annotations

import math
from typing import Any

from jobs import budget, contract, engines, submission
from jobs.files import JobFolder
from kit import console
from transfer.host import Host, quote

COLUMNS = ("job", "host", "engine", "state", "step", "loss", "eta", "gpu", "heartbeat", "cost")
LIST = """
CDPATH= cd {root} 2>/dev/null || exit 0
for file in .jobs/*/engine.json; do [ -f "$file" ] && echo "$file"; done
exit 0
"""


def names(host: Host) -> list[str]:
    """The jobs on a host, by name; what is no name of a job is left out."""
    output = host.run(LIST.format(root=quote(host.root)), repeatable=True)
    parts = [line.split("/") for line in output.decode("utf-8", "replace").splitlines()]
    return sorted(p[1] for p in parts if len(p) == 3 and contract.NAME.fullmatch(p[1]))


def row(host: Host, name: str) -> dict[str, Any]:
    """One job as the table and --json give it. A damaged one says so and hides no other."""
    made: dict[str, Any] = dict.fromkeys(COLUMNS) | {"job": name, "host": host.name}
    try:
        job, folder = submission.required(host, name)
        state = engines.engine_of(job.engine).state(host, job)
    except console.Problem as problem:
        return made | {"state": "damaged", "why": problem.text}
    status = folder.status
    kind = state.kind if state.code is None else f"ended ({state.code})"
    if folder.lives and state.over and state.code != 0:
        kind = {"hung": "hung", "budget": "out of budget"}.get(str(last_why(folder)), kind)
    beat = _number(status.get("heartbeat"))
    running = None if state.over else folder.life
    return made | {
        "engine": job.engine,
        "run": job.run_id,
        "state": kind,
        "why": state.why,
        "step": _steps(status),
        "loss": _number(status.get("loss")),
        "eta_seconds": None if state.over else _number(status.get("eta_seconds")),
        "gpu": None if state.over else folder.gpu or None,
        "heartbeat_seconds": max(0.0, folder.now - beat) if beat and not state.over else None,
        "ended": folder.lives[-1]["ended"] if folder.lives and state.over else None,
        "seconds": contract.seconds(folder.lives + ([running] if running else [])),
        "rate": job.rate or None,
        "cost": budget.cost(folder.lives, running, job.rate) if job.rate else None,
        "cap_seconds": job.cap_seconds or None,
    }


def last_why(folder: JobFolder) -> str:
    """Why the job's last life ended: hung, budget, lost or ''."""
    last = folder.lives[-1]
    return str(last.get("why") or ("hung" if last.get("hung") else ""))


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _steps(status: dict[str, Any]) -> str | None:
    step, most = _number(status.get("step")), _number(status.get("max_steps"))
    if step is None:
        return None
    return f"{step:.0f}/{most:.0f}" if most else f"{step:.0f}"


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table as text; '-' for what is not known."""
    cells = [list(COLUMNS)]
    for made in rows:
        eta, beat = made.get("eta_seconds"), made.get("heartbeat_seconds")
        loss, cost = made.get("loss"), made.get("cost")
        shown = {
            "loss": f"{loss:.4g}" if loss is not None else None,
            "eta": console.duration(eta) if eta is not None else None,
            "heartbeat": f"{console.duration(beat)} ago" if beat is not None else None,
            "cost": f"{cost:.2f}" if cost is not None else None,
        }
        cells.append([str(shown.get(c, made.get(c)) or "-") for c in COLUMNS])
    return aligned(cells)


def cost_lines(rows: list[dict[str, Any]], total: float) -> list[str]:
    """What each job took, and the sum; jobs whose rate nobody gave are counted beside it."""
    cells = [["job", "host", "time", "cost"]]
    for made in rows:
        damaged, cost = made["state"] == "damaged", made.get("cost")
        time = "damaged" if damaged else console.duration(made.get("seconds") or 0.0)
        cells.append([made["job"], made["host"], time,
                      "rate unknown" if cost is None else f"{cost:.2f}"])  # fmt: skip
    unknown = sum(made.get("cost") is None for made in rows)
    addition = f" and {unknown} of unknown cost" if unknown else ""
    cells.append(["together", "", "", f"{total:.2f}{addition}"])
    return aligned(cells)


def aligned(cells: list[list[str]]) -> list[str]:
    """Rows of texts as lines whose columns stand below each other."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(w.ljust(n) for w, n in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
