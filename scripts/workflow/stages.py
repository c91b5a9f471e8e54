"""Runs commands as named stages: one line each with its time, the output in a log file.

stages = Stages(Path(".rehearsal/log"))
with stages.stage("sync up") as s:
    s.run(["scripts/sync_to_remote.sh", host])
    s.says("12 files")                      -> ok    sync up      12 files   1.2 s
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit import console


class StageFailed(console.Problem):
    """A command of a stage ended with another code than 0."""


class Stage:
    """One stage: `run` its commands, `says` what came of it."""

    def __init__(self, name: str, log: Path):
        self.name, self.log, self.fact = name, log, ""
        self._last: collections.deque[str] = collections.deque(maxlen=4)
        self.began = time.monotonic()

    def says(self, fact: str) -> None:
        """The fact that the stage's line shows."""
        self.fact = fact

    def run(
        self,
        command: list[str | os.PathLike],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike | None = None,
    ) -> str:
        """Run `command` and return its stdout; both streams go to the log.

        Raises StageFailed with the command's last stderr line and the log's path; the few lines
        before it are shown on stderr.
        """
        words = [str(word) for word in command]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            process = subprocess.Popen(
                words, env=dict(env or os.environ), cwd=cwd, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            )  # fmt: skip
            reader = threading.Thread(target=self._follow, args=(process.stderr, log))
            try:
                reader.start()  # in here: a signal may come at any moment from now on
                out = process.stdout.read()
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
            finally:
                with contextlib.suppress(RuntimeError):  # it had not started
                    reader.join()
                self._live("")
            log.write(out)
        if code:
            self._last.extend(_failed_checks(out))
            *context, last = self._last or [f"{Path(words[0]).name} ended with {code}"]
            for line in context:
                console.note(f"      {line}")
            raise StageFailed(
                f"{self.name}: {last}",
                f"the whole output is in {self.log}",
                console.MISUSED if code == console.MISUSED else console.FAILED,
            )
        return out

    def json(self, command: list[str | os.PathLike], **kwargs: Any) -> dict[str, Any]:
        """Run a command that prints one JSON object (a line of its own) and return it."""
        out = self.run(command, **kwargs)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if not lines:
            raise StageFailed(f"{self.name}: no result", f"the whole output is in {self.log}")
        return json.loads(lines[-1])

    def _follow(self, stream, log) -> None:
        for line in stream:
            log.write(line)
            log.flush()
            if line.strip():
                self._last.append(line.rstrip())
                self._live(line.strip())

    def _live(self, text: str) -> None:
        if sys.stderr.isatty():
            took = console.duration(time.monotonic() - self.began)
            line = f"      {self.name:<12} {took:>8}  {text}"[:100] if text else ""
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _failed_checks(out: str) -> list[str]:
    """The failed checks in a command's JSON result, as lines."""
    try:
        checks = json.loads(out.strip().splitlines()[-1])["checks"]
    except (IndexError, KeyError, TypeError, ValueError):
        return []
    return [f"{c['name']}: {c['found']}; {c['fix']}" for c in checks if c["status"] == "fail"]


class Stages:
    """The stages of one trip, in order."""

    def __init__(self, log_folder: Path):
        self.log_folder = log_folder
        self.done: list[tuple[str, str, float]] = []
        log_folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage and print its line, `ok` or `FAIL`."""
        slug = name.replace(" ", "-").replace("/", "-")
        log = self.log_folder / f"{len(self.done) + 1:02d}-{slug}.txt"
        stage = Stage(name, log)
        try:
            yield stage
        except BaseException:
            self._line("FAIL", stage, "")
            raise
        self._line("ok", stage, stage.fact)

    def _line(self, mark: str, stage: Stage, fact: str) -> None:
        took = time.monotonic() - stage.began
        self.done.append((stage.name, fact, took))
        print(f"{mark:<4}  {stage.name:<12} {console.duration(took):>12}  {fact}", flush=True)
