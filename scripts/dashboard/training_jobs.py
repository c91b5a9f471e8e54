"""Starts and stops the trainer as a process of its own, which outlives every server.

One training at a time: a lock on adapters/runs/.jobs/training.lock, which the trainer inherits
and which ends with it, however it ends. A training that somebody started in a terminal counts too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import options
from dashboard import training_runs as runs
from kit import console, lock, paths, publish
from serving import web
from serving.api_errors import ApiError
from training import run_lock

PYTHON = ".venv-remote/bin/python"  # as commands are shown


def folder() -> Path:
    """What the servers of this machine keep for themselves; it never travels."""
    made = paths.folder("runs") / ".jobs"
    made.mkdir(parents=True, exist_ok=True)
    return made


def python() -> str:
    """The interpreter of the training environment, or this one where that is not set up."""
    named = paths.ROOT / PYTHON
    return str(named) if named.exists() else sys.executable


def command(config: str, overrides: Sequence[str], *more: str) -> list[str]:
    """The words of a lora_trainer.py call, as people type them."""
    words = ["scripts/lora_trainer.py"]
    if config != "training_config.yaml":
        words += ["--config", config]
    return [*words, *options.set_words(overrides), *more]


def environment() -> dict[str, str]:
    """The variables of what is started: those of the server, without its token."""
    return {k: v for k, v in os.environ.items() if k != web.TOKEN}


def busy() -> ApiError | None:
    """The refusal where a training runs, else None."""
    run = runs.active()
    if run is None:
        return None
    text = f"the run {run.name} is {runs.state(run)[0]}"
    return ApiError(409, "busy", text, "wait for its end, or stop it first", run_id=run.name)


@contextlib.contextmanager
def training_lock():
    """The file descriptor of the lock; 409 where a training holds it."""
    file = folder() / "training.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not lock.try_lock(descriptor, paths.show(file.parent)):
            wait = "wait for its end, or stop it first"
            raise busy() or ApiError(409, "busy", "a training is starting", wait)
        yield descriptor
    finally:
        os.close(descriptor)  # the trainer keeps its own


def start(run: Path, words: list[str], resume: bool) -> dict[str, Any]:
    """Start `words` (a lora_trainer.py call) for the folder `run`; returns its job.json.

    ApiError with 409 while another training runs.
    """
    with training_lock() as descriptor:
        refusal = busy()
        if refusal:
            raise refusal
        run.mkdir(parents=True, exist_ok=resume)
        (run / "stop.json").unlink(missing_ok=True)
        job = detach(words, run / "output.txt", (descriptor,))
        publish.json_file(run / "job.json", job)
    return job


def detach(
    words: list[str],
    output: Path,
    descriptors: Sequence[int] = (),
    secrets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a command of the kit in a session of its own; both streams are added to `output`.

    Returns what finds the process again: {"pid", "created", "host", "started", "command"}.
    """
    with output.open("ab") as stream:
        process = subprocess.Popen(
            [python(), *words], cwd=paths.ROOT, start_new_session=True,
            env=environment() | dict(secrets or {}), stdin=subprocess.DEVNULL,
            stdout=stream, stderr=subprocess.STDOUT, pass_fds=tuple(descriptors),
        )  # fmt: skip
    threading.Thread(target=process.wait, daemon=True).start()  # so that no zombie remains
    return {
        "pid": process.pid,
        "created": _created(process.pid),
        "host": socket.gethostname(),
        "started": time.time(),
        "command": [PYTHON, *words],
    }


def _created(pid: int) -> float:
    """When a process began, unix seconds; now, where it has ended already."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def stop(run_id: str | None = None, at_once: bool = False) -> dict[str, Any]:
    """Ask the run that trains (or `run_id`) to end after its step, with a checkpoint.

    Asking twice sends one signal, for a second one would cost the checkpoint; `at_once` sends it.
    """
    run = runs.folder(run_id) if run_id else runs.active()
    doing = runs.state(run)[0] if run else ""
    if run is None or doing not in runs.ACTIVE:
        text = f"the run {run.name} is {doing}" if run else "no training runs here"
        raise ApiError(409, "not_running", text, "there is nothing to stop")
    pid = _pid(run)
    if doing != "stopping" or at_once:
        publish.json_file(run / "stop.json", {"pid": pid, "when": time.time()})
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            raise ApiError(409, "not_running", f"the run {run.name} has just ended") from None
        except PermissionError:
            remedy = f"its owner stops it: kill -TERM {pid}"
            raise ApiError(403, "not_yours", f"{run.name} is another user's", remedy) from None
    return {"run_id": run.name, "state": "stopping", "pid": pid}


def _pid(run: Path) -> int:
    """The process to signal, proved once more to be this run's trainer.

    A launcher's ranks are refused, for one alone would hang the rest.
    """
    job = runs.read(run / "job.json")
    if runs.job_lives(run, job):
        return job["pid"]
    pid = run_lock.holder(run)
    if pid is None or not runs.run_folder.alive(run):
        raise ApiError(409, "not_running", f"the run {run.name} has just ended")
    if (runs.run_folder.read_facts(run).get("world_size") or 1) > 1:
        remedy = "stop its torchrun in the terminal that started it (Ctrl-C)"
        raise ApiError(409, "launcher", f"{run.name} has several processes", remedy)
    return pid


def resumable(run_id: str) -> Path:
    """The folder of a run that can continue; ApiError with the reason where it cannot."""
    run = runs.snapshot(runs.folder(run_id), lines=0)
    if run["state"] in runs.ACTIVE:
        raise ApiError(409, "busy", f"the run {run_id} is {run['state']}", "wait, or stop it")
    if not run["resumable"]:
        other = f"of the kind {run['kind']}" if run["kind"] != "lora" else run["state"]
        raise ApiError(409, "not_resumable", f"the run {run_id} is {other}", "start a new one")
    if not (runs.folder(run_id) / "config.yaml").is_file():
        raise ApiError(409, "not_resumable", f"{run_id} has no config.yaml", "start a new one")
    return runs.folder(run_id)


def refuse_foreign(config: str) -> str:
    """`config`, where it is a training configuration of this checkout by name; else 400."""
    names = configurations()
    if config in names:
        return config
    import difflib

    similar = difflib.get_close_matches(config, names, 1, 0)
    raise console.Misuse(f"no training configuration is named {config!r}", f"{similar[0]}?")


def configurations() -> list[str]:
    """The names in configs/ that configure a training, the usual one first."""
    names = {p.name for p in (paths.ROOT / "configs").glob("*training_config*.yaml")}
    return sorted(names, key=lambda name: (name != "training_config.yaml", name))
