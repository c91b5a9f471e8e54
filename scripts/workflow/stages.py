"""Runs commands as named stages: one line each with its time, the output in a log file.

    stages = StageSeries(Path(".rehearsal/log"))
    with stages.stage("sync up") as stage:
        stage.run(["scripts/sync_to_remote.sh", host])
        stage.set_fact("12 files")          -> ok    sync up      12 files   1.2 s

While a stage runs, a terminal shows its time and the last line of its command, renewed every
second; without a terminal there is a line every PULSE_SECONDS.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit import console
from kit.signals import signals_deferred

PULSE_SECONDS = 25  # without a terminal: nobody waits longer than half a minute for a line
KEPT_LINES = 12  # of a command's stderr: enough for a table of checks and the line that ends it
_NOT_A_CAUSE = re.compile(r"[\w.-]+: stopped at: |\d+ ok, \d+ warn, \d+ fail")


class StageFailed(console.Problem):
    """A command of a stage ended with another code than 0."""


class Stage:
    """One stage: `run` its commands, `set_fact` what its line shows."""

    def __init__(self, name: str, log: Path):
        self.name, self.log, self.fact = name, log, ""
        self.began = time.monotonic()
        self._last: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    def set_fact(self, fact: str) -> None:
        """The fact that the stage's line shows."""
        self.fact = fact

    @property
    def last_line(self) -> str:
        """What the stage's command wrote last."""
        return " ".join(self._last[-1].split()) if self._last else ""

    def run(
        self,
        command: list[str | os.PathLike],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike | None = None,
    ) -> str:
        """Run `command` and return its stdout; both streams go to the log.

        Raises StageFailed with the cause, taken from the command's last lines, and the log's path;
        the lines before the cause are shown on stderr.
        """
        words = [str(word) for word in command]
        self._last.clear()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            code, out = self._run(words, env, cwd, log)
            log.write(out)
        if code:
            raise self._failure(code, words[0], out)
        return out

    def _run(self, words, env, cwd, log) -> tuple[int, str]:
        process = reader = None
        try:
            with signals_deferred():
                process = subprocess.Popen(
                    words, env=dict(env or os.environ), cwd=cwd, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                )  # fmt: skip
                reader = threading.Thread(target=self._follow, args=(process.stderr, log))
                reader.start()
            out = process.stdout.read()
            return process.wait(), out
        except BaseException:
            if process is not None:
                process.terminate()
                process.wait()
            raise
        finally:
            if reader is not None:
                reader.join()

    def _failure(self, code: int, program: str, out: str) -> StageFailed:
        lines = [*self._last, *_failed_checks(out)]
        cause, context = split_cause(lines)
        for line in context[-3:]:
            console.note(f"      {line}")
        return StageFailed(
            f"{self.name}: {cause or f'{Path(program).name} ended with {code}'}",
            f"the whole output is in {self.log}",
            console.MISUSED if code == console.MISUSED else console.FAILED,
        )

    def json(self, command: list[str | os.PathLike], **kwargs: Any) -> dict[str, Any]:
        """Run a command that prints one JSON object (a line of its own) and return it."""
        out = self.run(command, **kwargs)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError, RecursionError):
            raise StageFailed(
                f"{self.name}: {Path(str(command[0])).name} printed no result",
                f"the whole output is in {self.log}",
            ) from None

    def _follow(self, stream, log) -> None:
        for line in stream:
            log.write(line)
            log.flush()
            if line.strip():
                self._last.append(line.rstrip())


def split_cause(lines: list[str]) -> tuple[str, list[str]]:
    """(the line that says why a command failed, the lines before it).

    The last line of a shell command may only name the step ("setup_remote.sh: stopped at: GPU").
    The cause is then the last failed check, with its fix, or the last line above it.
    """
    rest = list(lines)
    while rest and _NOT_A_CAUSE.match(rest[-1].strip()):
        rest.pop()
    if not rest:
        return (lines[-1], []) if lines else ("", [])
    if not re.match(r"[\w.-]+: ", rest[-1]):
        for at in range(len(rest) - 1, -1, -1):
            if match := re.match(r"FAIL\s+(.+)", rest[at]):
                cause = re.sub(r"\s{2,}", ": ", match[1].strip(), count=1)
                fix = rest[at + 1].strip() if at + 1 < len(rest) else ""
                fix = fix.removeprefix("fix: ") if fix.startswith("fix: ") else ""
                return f"{cause}; {fix}" if fix else cause, rest[:at]
    return rest[-1].strip(), rest[:-1]


def _failed_checks(out: str) -> list[str]:
    """The failed checks in a command's JSON result, as lines."""
    try:
        checks = json.loads(out.strip().splitlines()[-1])["checks"]
        failed = [check for check in checks if check["status"] == "fail"]
        return [f"{check['name']}: {check['found']}; {check['fix']}" for check in failed]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return []


class Pulse(threading.Thread):
    """Shows that a stage is still running: a moving line, or a line now and then."""

    def __init__(self, stage: Stage):
        super().__init__(daemon=True)
        self.stage = stage
        self.ended = threading.Event()
        self.terminal = sys.stderr.isatty()

    def run(self) -> None:
        while not self.ended.wait(1 if self.terminal else PULSE_SECONDS):
            self.show()

    def show(self) -> None:
        """The stage's time so far and its last line."""
        took = console.duration(time.monotonic() - self.stage.began)
        line = f"      {self.stage.name:<12} {took:>12}  {self.stage.last_line}"
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
            if self.terminal:
                line = console.printable(line)[: _columns()]
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            else:
                console.note(line)

    def end(self) -> None:
        self.ended.set()
        with contextlib.suppress(RuntimeError):  # it had not started
            self.join()
        if self.terminal:
            with contextlib.suppress(OSError, ValueError):
                print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def pulse(name: str) -> Iterator[None]:
    """Show that work without a stage of its own is still running."""
    shown = Pulse(Stage(name, Path(os.devnull)))
    shown.start()
    try:
        yield
    finally:
        shown.end()


def _columns() -> int:
    try:
        return max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
    except OSError:
        return 99


class StageSeries:
    """The stages of one command, in order; `done` holds (name, fact, seconds) of each."""

    def __init__(self, log_folder: Path):
        self.log_folder = log_folder
        self.done: list[tuple[str, str, float]] = []
        log_folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage and print its line, `ok` or `FAIL`."""
        slug = name.replace(" ", "-").replace("/", "-")
        stage = Stage(name, self.log_folder / f"{len(self.done) + 1:02d}-{slug}.txt")
        pulse = Pulse(stage)
        try:
            pulse.start()
            try:
                yield stage
            finally:
                pulse.end()
        except BaseException:
            self._line("FAIL", stage, "")
            raise
        self._line("ok", stage, stage.fact)

    def _line(self, mark: str, stage: Stage, fact: str) -> None:
        took = time.monotonic() - stage.began
        self.done.append((stage.name, fact, took))
        console.result(f"{mark:<4}  {stage.name:<12} {console.duration(took):>12}  {fact}")
