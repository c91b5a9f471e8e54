"""The events of a run, from its files: what was written since an event's id, without gaps.

An id is RUN/ATTEMPT/METRICS/LOG: the run, when its process began (ms), and how many bytes of
metrics.jsonl and log.txt were sent. It means the same to every server, so a client that comes
back with Last-Event-ID after a restart misses nothing and gets nothing twice.

    status   the run as GET /status gives it, whenever it changes (every five seconds at least)
    metrics  one row of metrics.jsonl
    log      {"line": one line of log.txt}
    reset    {"run"}: another run, or the same one resumed from a checkpoint; forget the old rows
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboard import training_runs as runs
from transfer.adapter_units import RUN_ID

Event = tuple[str, str, str]  # (event, id, data)
CHUNK = 1 << 20  # bytes of a file that one poll reads
LONGEST = 4096  # characters of a log's line that are sent
VOLATILE = ("heartbeat_age", "eta_seconds")  # they change with the clock alone


class Follower:
    """What is new in a run's folder at each `poll`; follows the current run where none is named."""

    def __init__(self, run_id: str | None = None, last_id: str = ""):
        self._wanted = run_id
        self._run, self._attempt = "", 0
        self._offsets = {"metrics.jsonl": 0, "log.txt": 0}
        self._inodes: dict[str, int] = {}
        self._status: dict[str, Any] | None = None
        self._known = self._go_on_from(last_id)

    def _go_on_from(self, last_id: str) -> bool:
        """Whether `last_id` is one of ours; any other counts as none."""
        name, *numbers = last_id.split("/")
        if not RUN_ID.fullmatch(name) or len(numbers) != 3:
            return False
        if not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
            return False
        self._run, self._attempt = name, int(numbers[0])
        self._offsets = {"metrics.jsonl": int(numbers[1]), "log.txt": int(numbers[2])}
        return True

    @property
    def id(self) -> str:
        """The id of the event that was sent last."""
        return "/".join([self._run, str(self._attempt), *map(str, self._offsets.values())])

    def poll(self) -> Iterator[Event]:
        """The events since the last poll."""
        run = runs.folder(self._wanted) if self._wanted else runs.current()
        if run is None:
            if self._status is None:
                self._status = {}
                yield "status", "", json.dumps({"id": None, "state": "none"})
            return
        if self._another(run):
            yield "reset", self.id, json.dumps({"run": run.name})
        for line in self._new(run / "metrics.jsonl"):
            for row in runs.rows_of(line):
                yield "metrics", self.id, json.dumps(row)
        for line in self._new(run / "log.txt"):
            text = runs.clean(line.decode("utf-8", "replace").rstrip()[:LONGEST])
            yield "log", self.id, json.dumps({"line": text})
        status = runs.snapshot(run, lines=0)
        lasting = {k: v for k, v in status.items() if k not in VOLATILE}
        if lasting != self._status:
            self._status = lasting
            yield "status", self.id, json.dumps(status)

    def _another(self, run: Path) -> bool:
        """Whether the rows sent so far are of another run or attempt; begins again if so."""
        attempt = _attempt(run)
        same = (run.name, attempt) == (self._run, self._attempt)
        if same and not any(self._rewritten(run / name) for name in self._offsets):
            self._known = True
            return False
        known, self._known = self._known, True
        self._run, self._attempt, self._status, self._inodes = run.name, attempt, None, {}
        self._offsets = {"metrics.jsonl": 0, "log.txt": _line_start(run / "log.txt")}
        return known

    def _rewritten(self, file: Path) -> bool:
        """Whether `file` is shorter than what was sent of it, or was replaced."""
        try:
            stat = file.stat()
        except OSError:
            return self._offsets[file.name] > 0
        before = self._inodes.get(file.name, stat.st_ino)
        return stat.st_size < self._offsets[file.name] or stat.st_ino != before

    def _new(self, file: Path) -> Iterator[bytes]:
        """The whole lines that were added to `file`, each counted as sent when it is given."""
        if not runs.has(file.parent, file.name):
            return
        try:
            with file.open("rb") as f:
                self._inodes[file.name] = os.fstat(f.fileno()).st_ino
                f.seek(self._offsets[file.name])
                data = f.read(CHUNK)
        except OSError:
            return
        if len(data) == CHUNK and b"\n" not in data:  # no line of ours is that long
            self._offsets[file.name] += CHUNK
        for line in data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]:
            self._offsets[file.name] += len(line) + 1
            yield line + b"\n"


def here(run: Path) -> str:
    """The id of the last thing that a run has written: events after it are news."""
    ends = (str(_end(run / name)) for name in ("metrics.jsonl", "log.txt"))
    return "/".join([run.name, str(_attempt(run)), *ends])


def _attempt(run: Path) -> int:
    return int(runs.began(run)[0] * 1000)


def _end(file: Path) -> int:
    """Bytes up to the last line's end."""
    if not runs.has(file.parent, file.name):
        return 0
    try:
        with file.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(0, size - runs.TAIL))
            tail = f.read()
    except OSError:
        return 0
    return size - (len(tail) - tail.rfind(b"\n") - 1)


def _line_start(log: Path) -> int:
    """Where the last lines of a log begin, so that a long log is not sent from its first line."""
    if not runs.has(log.parent, log.name):
        return 0
    try:
        with log.open("rb") as f:
            begin = max(0, f.seek(0, 2) - runs.TAIL)
            f.seek(begin)
            return begin + (len(f.readline()) if begin else 0)
    except OSError:
        return 0


def message(event: Event) -> str:
    """An event in the words of text/event-stream."""
    name, number, data = event
    named = f"id: {number}\n" if number else ""
    return f"event: {name}\n{named}data: {data}\n\n"
