"""What the runs are doing, read from their folders alone: true after any restart of a server.

A run that an API started has two files more than its RunFolder: job.json (the process, as it was
started) and output.txt (all that it printed).

    starting     its process reads the data, and has written no status yet
    running      status.json is alive          stopping   it was told to end
    completed, stopped, failed                 as status.json says
    interrupted  status.json says running and no such process is left (a kill, a power cut)
    elsewhere    it runs, or ran, on another machine, and status.json came from there
"""

from __future__ import annotations

import codecs
import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import console, paths
from serving.api_errors import ApiError
from training import run_folder

RUN_ID = run_folder.RUN_ID
ACTIVE = ("starting", "running", "stopping")
UNFINISHED = ("stopped", "failed", "interrupted")
TAIL = 32 << 10  # bytes at the end of a log that are looked at
COPIED = ("kind", "step", "max_steps", "epoch", "loss", "eval_loss", "learning_rate", "checkpoint",
          "heartbeat", "started", "ended", "host", "resumed_from")  # fmt: skip


def folder(run_id: str) -> Path:
    """The folder of a run; 404 where there is none."""
    run = paths.folder("runs") / run_id
    if not RUN_ID.fullmatch(run_id) or not any((run / f).is_file() for f in MARKS):
        known = ", ".join(r.name for r in everything()[:3]) or "none yet"
        raise ApiError(404, "no_such_run", f"no run is named {run_id!r}", f"the latest: {known}")
    return run


MARKS = ("status.json", "job.json")  # a folder with one of them is a run


def read(file: Path) -> dict[str, Any]:
    """A JSON object that its writer replaces as a whole; {} where it is missing or damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def everything() -> list[Path]:
    """Every run, the one that began last first."""
    root = paths.folder("runs")
    found = {f.parent for mark in MARKS for f in root.glob(f"*/{mark}")} if root.is_dir() else ()
    return sorted((r for r in found if RUN_ID.fullmatch(r.name)), key=began, reverse=True)


def began(run: Path) -> tuple[float, str]:
    """(when the run's last process began, its name): what runs are sorted by."""
    times = (read(run / mark).get("started") for mark in MARKS)
    return max((t for t in times if isinstance(t, int | float)), default=0.0), run.name


def active() -> Path | None:
    """The run that trains on this machine now, whoever started it."""
    return next((run for run in everything() if state(run)[0] in ACTIVE), None)


def current() -> Path | None:
    """The run to show: the one that trains now, else the latest."""
    return active() or next(iter(everything()), None)


def process_lives(job: dict[str, Any]) -> bool:
    """Whether the process of a job.json still runs here: the same one, not a later one's number."""
    import psutil

    if not job.get("pid") or job.get("host") != socket.gethostname():
        return False
    try:
        process = psutil.Process(job["pid"])
        same = abs(process.create_time() - job["created"]) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError):
        return False


def state(run: Path) -> tuple[str, str]:
    """(state, error) of a run; see the top of this file."""
    status, job = read(run / "status.json"), read(run / "job.json")
    lives, written = process_lives(job), bool(status) and status.get("pid") == job.get("pid")
    if lives and not written:
        return ("stopping" if _told_to_stop(run, job) else "starting"), ""
    if not status:
        return ("stopped", "") if _told_to_stop(run, job) else ("failed", last_words(run))
    if status.get("state") != "running":
        tried = job and not written and job.get("started", 0) > status.get("ended", 0)
        return str(status.get("state")), last_words(run) if tried else str(status.get("error", ""))
    if lives or run_folder.alive(run, status):
        return ("stopping" if _told_to_stop(run, status) else "running"), ""
    if status.get("host") != socket.gethostname():
        return "elsewhere", ""
    if job and not written and job.get("started", 0) > status.get("started", 0):
        return "interrupted", last_words(run)
    return "interrupted", "its process is gone without a word: killed, or the machine went down"


def _told_to_stop(run: Path, process: dict[str, Any]) -> bool:
    told = read(run / "stop.json")
    return bool(told) and told.get("pid") == process.get("pid")


def snapshot(run: Path, lines: int = 40) -> dict[str, Any]:
    """One run as the API and the page give it; times are unix seconds, `log` the last lines."""
    status, job = read(run / "status.json"), read(run / "job.json")
    now, (doing, error) = time.time(), state(run)
    found: dict[str, Any] = {"id": run.name, "state": doing, "error": error or None}
    found |= {key: finite(status.get(key)) for key in COPIED}
    found["kind"] = found["kind"] or "lora"
    found["started"] = found["started"] or job.get("started")
    if doing == "starting":  # what an earlier process measured is no news of this one
        found |= {"heartbeat": None, "ended": None, "started": job["started"]}
    step, most = found["step"], found["max_steps"]
    found["progress"] = min(1.0, step / most) if step is not None and most else None
    beat = found["heartbeat"]
    found["heartbeat_age"] = max(0.0, now - beat) if beat else None
    found["eta_seconds"] = eta(run, status, now) if doing == "running" else None
    found["resumable"] = found["kind"] == "lora" and bool(status) and doing in UNFINISHED
    found["pid"] = (status or job).get("pid")
    found["log"] = tail(run / "log.txt", lines) or tail(run / "output.txt", lines)
    found["report"] = (run / "report.html").is_file()
    return found


def eta(run: Path, status: dict[str, Any], now: float) -> float | None:
    """Seconds to the end, counted on from the last step that was logged."""
    left = status.get("eta_seconds")
    last = rows_of("".join(tail(run / "metrics.jsonl", 1)).encode())
    if left is None or not last:
        return None
    return max(0.0, left - (now - (last[0].get("time") or now)))


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; half a last line is left for the next reading."""
    try:
        data = (run / "metrics.jsonl").read_bytes()
    except OSError:
        return []
    return rows_of(data[: data.rfind(b"\n") + 1])


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects in whole lines; a damaged line is left out."""
    found = []
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append({key: finite(value) for key, value in row.items()})
    return found


def finite(value: Any) -> Any:
    """`value`, or None for NaN and Inf: JSON has no word for them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tail(file: Path, lines: int) -> list[str]:
    """The last whole lines of a log."""
    try:
        with file.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - TAIL))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.split("\n") if line.strip()][-lines:]


def printable_pieces(file: Path) -> Iterator[str]:
    """A log piece by piece, with its control characters as escapes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with file.open("rb") as f:
        while piece := f.read(1 << 16):
            yield console.printable(decoder.decode(piece))
    yield console.printable(decoder.decode(b"", True))


def last_words(run: Path) -> str:
    """The line with which a process ended that never wrote a status."""
    said = tail(run / "output.txt", 1)
    return said[0] if said else "it ended before it said anything"
