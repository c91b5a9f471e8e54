"""Which run a training command starts, or goes on with. Shared by lora_trainer and RLHF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paths
from kit import console
from training import run_folder


def chosen(
    resume: str | None, run_id: str | None, settings, kinds: tuple[str, ...] = ("lora",)
) -> tuple[Path, Path | None]:
    """(run folder, checkpoint to go on from) for a new run, or for one to resume.

    resume: None for a new run, 'latest', or a run's id; kinds: what the command can go on with.
    """
    if not resume:
        return paths.folder("runs") / (run_id or run_folder.new_id()), None
    run = (
        run_folder.unfinished(kinds=kinds) if resume == "latest" else paths.folder("runs") / resume
    )
    status = run_folder.read_status(run)
    kind = status.get("kind", "lora")
    if kind not in kinds:
        raise console.Misuse(
            f"the run {run.name} is of the kind {kind}, not {' or '.join(kinds)}",
            "resume it with the command that began it",
        )
    if status["state"] == "completed":
        raise console.Misuse(f"the run {run.name} is completed", "start a new one without --resume")
    if run_folder.alive(status):
        raise console.Problem(
            f"the run {run.name} is still running (process {status['pid']})",
            "wait, or stop it first",
        )
    refuse_other_config(run, settings)
    return run, run_folder.last_checkpoint(run)


def refuse_other_config(run: Path, settings) -> None:
    """A resumed run must have the configuration it began with; the opt-ins may differ."""
    import yaml

    began = _flat(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
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
