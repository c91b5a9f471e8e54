"""Which run a training command starts, or goes on with. Shared by lora_trainer and RLHF."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from kit import console, paths
from training import run_folder

_held: dict[Path, int] = {}  # run -> descriptor of its lock, open as long as the process lives


def chosen(
    resume: str | None, run_id: str | None, settings, kinds: tuple[str, ...] = ("lora",)
) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to go on from) for a new run, or for one to resume.

    resume: None for a new run, 'latest', or a run's id; kinds: what the command can go on with.
    """
    if not resume:
        return new(run_id or run_folder.new_id()), None
    run = run_folder.unfinished(kinds=kinds) if resume == "latest" else folder(resume)
    status = run_folder.read_status(run)
    if run_folder.alive(status):
        raise console.Problem(
            f"the run {run.name} is still running (process {status['pid']})",
            "wait, or stop it first",
        )
    hold(run)
    status = run_folder.read_status(run)  # what its last process wrote before it let go
    kind = status.get("kind", "lora")
    if kind not in kinds:
        raise console.Misuse(
            f"the run {run.name} is of the kind {kind}, not {' or '.join(kinds)}",
            "resume it with the command that began it",
        )
    if status["state"] == "completed":
        raise console.Misuse(f"the run {run.name} is completed", "start a new one without --resume")
    refuse_other_config(run, settings)
    return run, run_folder.last_checkpoint(run)


def folder(run_id: str) -> Path:
    """Where a run of this id lies. Misuse for an id that is no plain name."""
    if not run_folder.RUN_ID.fullmatch(run_id):
        raise console.Misuse(
            f"{run_id!r} is no run id",
            "use letters, digits, '.', '_' and '-', a letter or a digit first, 128 at most",
        )
    return paths.folder("runs") / run_id


def new(run_id: str) -> Path:
    """The folder of a new run, held by this process. Misuse where a run of that id has begun."""
    run = folder(run_id)
    refuse_begun(run)
    run.mkdir(parents=True, exist_ok=True)
    hold(run)
    refuse_begun(run)  # by a process that has held it since
    return run


def refuse_begun(run: Path) -> None:
    """Misuse where a run has begun in this folder."""
    if any((run / name).exists() for name in ("status.json", "config.yaml")):
        raise console.Misuse(
            f"there is a run {run.name} already, and no run is ever written over",
            f"--resume {run.name} goes on with an unfinished one, or give another --run-id",
        )


def hold(run: Path) -> None:
    """Lock the run's folder until this process ends. Problem where another process has it."""
    if run in _held:
        return
    descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise console.Problem(
            f"another process is training the run {run.name}", "wait for its end, or stop it first"
        ) from None
    _held[run] = descriptor
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))  # workers outlive a kill


def leave(run: Path | None) -> None:
    """Remove the folder of a run that ended before it began: nothing but the lock is in it."""
    if run in _held and [p.name for p in run.iterdir()] == [".lock"]:
        (run / ".lock").unlink()
        run.rmdir()


def refuse_other_config(run: Path, settings) -> None:
    """A resumed run must have the configuration it began with; the opt-ins may differ."""
    began = _flat(run_folder.read_config(run))
    now = _flat(settings.model_dump(mode="json"))
    opt_ins = ("safety.", "enabled")
    changed = [k for k in now if began.get(k) != now[k] and not k.startswith(opt_ins)]
    if changed:
        what = ", ".join(f"{k} was {began.get(k)!r}, is {now[k]!r}" for k in changed)
        raise console.Misuse(
            f"{run.name} began with another configuration: {what}",
            f"use --config {paths.show(run / 'config.yaml')}, or start a new run",
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for n, inner in value.items() for k, v in _flat(inner, f"{key}.{n}").items()}
    return {key[1:]: value}
