"""What the runs are doing, read from their folders alone: true after any restart of a server.

A run that an API started has two files more than its RunFolder: job.json (the process, as it was
started) and output.txt (all that it printed).

    starting     its process reads the data, and has written no status yet
    running      status.json is alive          stopping   it was asked to end
    completed, stopped, failed                 as status.json says
    interrupted  status.json says running and no such process is left (a kill, a power cut)
    elsewhere    it runs, or ran, on another machine, and status.json came from there
    damaged      status.json is not what its name promises; `error` says what is wrong with it
"""

from __future__ import annotations

import codecs
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import console, paths
from serving.api_errors import ApiError
from training import run_folder, run_lock, run_schema
from transfer.adapter_units import RUN_ID

TRAINER = "lora_trainer.py"
ACTIVE = ("starting", "running", "stopping")
UNFINISHED = ("stopped", "failed", "interrupted")
MARKS = ("status.json", "job.json")  # a folder with one of them is a run
TAIL = 32 << 10  # bytes at the end of a log that are looked at
MEASURED = 4 << 20  # bytes at the end of metrics.jsonl from which the curve is drawn
FUTURE = 86400.0  # seconds by which the clock of a host may be ahead
COPIED = ("kind", "step", "max_steps", "epoch", "loss", "eval_loss", "learning_rate", "checkpoint",
          "heartbeat", "started", "ended", "host", "resumed_from")  # fmt: skip
JOB = {  # job.json, model_server.json and stop.json: all that is read of them
    "pid": run_schema.is_count, "host": run_schema.is_text, "created": run_schema.is_time,
    "started": run_schema.is_time, "when": run_schema.is_time, "stopped": run_schema.is_time,
    "command": run_schema.is_texts, "url": run_schema.is_text, "reference": run_schema.is_text,
}  # fmt: skip


def folder(run_id: str) -> Path:
    """The folder of a run; 404 where there is none."""
    run = paths.folder("runs") / run_id
    if not RUN_ID.fullmatch(run_id) or not any((run / f).is_file() for f in MARKS):
        known = ", ".join(r.name for r in everything()[:3]) or "none yet"
        raise ApiError(404, "no_such_run", f"no run is named {run_id!r}", f"the latest: {known}")
    return run


def read(file: Path) -> dict[str, Any]:
    """A record of a process (JOB says its fields); {} where it is missing or damaged."""

    def check(text: str) -> dict[str, Any]:
        value = run_schema.parse_object(text)
        run_schema.check_fields(value, JOB)
        return value

    try:
        return run_folder.read_checked(file, check)
    except (OSError, console.Problem):
        return {}


def read_status(run: Path) -> tuple[dict[str, Any], str]:
    """(status.json, what is wrong with it); ({}, "") where there is none."""
    try:
        return run_folder.read_status(run), ""
    except console.Problem as problem:
        return {}, problem.text if (run / "status.json").exists() else ""
    except OSError as error:
        return {}, f"status.json: {error.strerror}"


def everything() -> list[Path]:
    """Every run, the one that began last first."""
    root = paths.folder("runs")
    files = (f for mark in MARKS for f in root.glob(f"*/{mark}")) if root.is_dir() else ()
    marked = {f.parent for f in files if RUN_ID.fullmatch(f.parent.name) and f.is_file()}
    return sorted(marked, key=began, reverse=True)


def began(run: Path) -> tuple[float, str]:
    """(when the run's last process began, its name): what runs are sorted by.

    A time in the future is none: a folder from a host must not stay in front for ever.
    """
    times = (read_status(run)[0].get("started"), read(run / "job.json").get("started"))
    known = [t for t in times if t is not None and t < time.time() + FUTURE]
    return max(known, default=0.0), run.name


def active() -> Path | None:
    """The run that trains on this machine now, whoever started it."""
    return next((run for run in everything() if state(run)[0] in ACTIVE), None)


def current() -> Path | None:
    """The run to show: the one that trains now, else the latest."""
    return active() or next(iter(everything()), None)


def process_lives(job: dict[str, Any], script: str, mark: str) -> bool:
    """Whether the process of a record still runs here, and is what the record says.

    It has the recorded number (above 1) and beginning, and its command line is the recorded one:
    that of `script`, with `mark` (the run, the version) in it. A record alone proves nothing.
    """
    import psutil

    pid, command = job.get("pid") or 0, job.get("command") or []
    if pid <= 1 or job.get("host") != socket.gethostname() or job.get("created") is None:
        return False
    words = " ".join(command[1:]).split()  # ps of macOS gives a line, and another interpreter
    actual = " ".join(run_lock.command_of(pid) or []).split()
    if not words or Path(words[0]).name != script or mark not in words:
        return False
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - job["created"]) < 2 and actual[-len(words) :] == words
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OverflowError):
        return False


def job_lives(run: Path, job: dict[str, Any]) -> bool:
    """Whether the trainer that the panel started for this run still runs."""
    return process_lives(job, TRAINER, run.name)


def state(run: Path) -> tuple[str, str]:
    """(state, error) of a run; see the top of this file."""
    (status, damage), job = read_status(run), read(run / "job.json")
    lives, written = job_lives(run, job), bool(status) and status.get("pid") == job.get("pid")
    if lives and not written:
        return ("stopping" if _asked_to_stop(run, job) else "starting"), ""
    if damage:
        return "damaged", console.printable(damage)
    if not status:
        return ("stopped", "") if _asked_to_stop(run, job) else ("failed", last_words(run))
    if status["state"] != "running":
        tried = job and not written and _when(job, "started") > _when(status, "ended")
        error = last_words(run) if tried else status.get("error") or ""
        return status["state"], console.printable(error)
    if lives or run_folder.alive(run, status):
        return ("stopping" if _asked_to_stop(run, status) else "running"), ""
    if status.get("host") != socket.gethostname():
        return "elsewhere", ""
    if job and not written and _when(job, "started") > _when(status, "started"):
        return "interrupted", last_words(run)
    return "interrupted", "its process is gone: killed, or the machine went down"


def _when(record: dict[str, Any], key: str) -> float:
    return record.get(key) or 0.0


def _asked_to_stop(run: Path, process: dict[str, Any]) -> bool:
    stop = read(run / "stop.json")
    return bool(stop) and stop.get("pid") == process.get("pid")


def snapshot(run: Path, lines: int = 40) -> dict[str, Any]:
    """One run as the API and the page give it; times are unix seconds, `log` the last lines."""
    (status, _), job = read_status(run), read(run / "job.json")
    now, (doing, error) = time.time(), state(run)
    shown: dict[str, Any] = {"id": run.name, "state": doing, "error": error or None}
    shown |= {key: clean(status.get(key)) for key in COPIED}
    shown["kind"] = shown["kind"] or "lora"
    shown["started"] = shown["started"] or job.get("started")
    if doing == "starting":  # what an earlier process measured is no news of this one
        shown |= {"heartbeat": None, "ended": None, "started": job.get("started")}
    step, most = shown["step"], shown["max_steps"]
    shown["progress"] = min(1.0, step / most) if step is not None and most else None
    beat = shown["heartbeat"]
    shown["heartbeat_age"] = max(0.0, now - beat) if beat else None
    shown["eta_seconds"] = eta(run, status, now) if doing == "running" else None
    shown["resumable"] = shown["kind"] == "lora" and bool(status) and doing in UNFINISHED
    shown["pid"] = (status or job).get("pid")
    shown["log"] = tail(run / "log.txt", lines) or tail(run / "output.txt", lines)
    shown["report"] = has(run, "report.html")
    return shown


def has(run: Path, name: str) -> bool:
    """Whether a run has that file; a link, which could lead anywhere, is not one."""
    return (run / name).is_file() and not (run / name).is_symlink()


def eta(run: Path, status: dict[str, Any], now: float) -> float | None:
    """Seconds to the end, counted on from the last step that was logged."""
    remaining = clean(status.get("eta_seconds"))
    last = rows_of("".join(tail(run / "metrics.jsonl", 1)).encode())
    if remaining is None or not last:
        return None
    return max(0.0, remaining - (now - (last[0].get("time") or now)))


def metrics(run: Path) -> list[dict[str, Any]]:
    """The last rows of metrics.jsonl; half a last line is left for the next reading."""
    data = _end(run / "metrics.jsonl", MEASURED)
    return rows_of(data[: data.rfind(b"\n") + 1])


def rows_of(data: bytes) -> list[dict[str, Any]]:
    """The rows of metrics in whole lines; a damaged line is left out."""
    lines = data.decode("utf-8", "replace").split("\n")
    rows = (run_schema.metrics_row(line) for line in lines if line.strip())
    return [clean(row) for row in rows if row is not None]


def clean(value: Any) -> Any:
    """`value` without what JSON or a terminal cannot take.

    NaN and Inf become None; control characters and halves of surrogate pairs become escapes.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return console.printable(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean(inner) for key, inner in value.items()}
    return [clean(inner) for inner in value] if isinstance(value, list) else value


def tail(file: Path, lines: int) -> list[str]:
    """The last whole lines of a log, control characters as escapes."""
    text = _end(file, TAIL).decode("utf-8", "replace")
    whole = [console.printable(line.rstrip()) for line in text.split("\n") if line.strip()]
    return whole[-lines:] if lines else []


def _end(file: Path, size: int) -> bytes:
    """The last `size` bytes of a regular file."""
    try:
        if not has(file.parent, file.name):
            return b""
        with file.open("rb") as f:
            f.seek(max(0, f.seek(0, 2) - size))
            return f.read(size)
    except OSError:
        return b""


def printable_pieces(file: Path) -> Iterator[str]:
    """A log piece by piece, with its control characters as escapes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with file.open("rb") as f:
        while piece := f.read(1 << 16):
            yield console.printable(decoder.decode(piece))
    yield console.printable(decoder.decode(b"", True))


def last_words(run: Path) -> str:
    """The line with which a process ended that never wrote a status."""
    last = tail(run / "output.txt", 1)
    return last[0] if last else "it ended before it printed anything"
