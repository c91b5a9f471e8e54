"""Register a finished run as the next version of a name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from adapters import card as cards
from adapters import card_schema, gate, names, peft_config, version_files, version_store, weights
from kit import console, paths, publish

STATES = {  # states of status.json that cannot be registered -> what to do
    "planned": "train it first: make train",
    "running": "wait until it is completed",
    "stopped": "finish it: python scripts/lora_trainer.py --confirm-run --resume",
    "failed": "look at its log.txt, then resume it or train again",
}


def find_run(run: str | os.PathLike, runs: Path) -> tuple[Path, Path]:
    """(run folder, its PEFT folder) for a run id, a run's folder, or a PEFT folder by itself."""
    folder = Path(run).expanduser()
    if str(run) == folder.name and (runs / folder.name).is_dir() or not folder.is_dir():
        folder = runs / str(run)  # a bare name is a run's id first: `data` is a folder here, too
    if not folder.is_dir():
        known = sorted(p.name for p in runs.iterdir() if p.is_dir()) if runs.is_dir() else []
        close = difflib.get_close_matches(Path(run).name, known, 1, 0.4)
        latest = f"the latest: {', '.join(known[-3:]) or 'none'}"
        hint = f"did you mean {close[0]}?" if close else latest
        raise console.Misuse(f"no run at {run}", hint)
    if (folder / "final").is_dir():
        return folder, folder / "final"
    if (folder / peft_config.FILE).is_file():
        return folder, folder
    check_state(folder)
    raise console.Problem(f"{paths.show(folder)} has no final/ folder", "let the run complete")


def check_state(run: Path) -> None:
    """Problem unless the run is completed, or has no status.json (an adapter from elsewhere)."""
    state = cards.read_json(run / "status.json").get("state")
    if isinstance(state, str) and state in STATES:
        raise console.Problem(f"the run {run.name} is {state}, not completed", STATES[state])


def choose_bump(new: dict[str, Any], latest: version_store.Version | None) -> tuple[str, str]:
    """(major|minor|patch, why) for a run without --bump, so that ^1.0 stays safe to follow."""
    if latest is None:
        return "major", "nothing to compare with"
    old = latest.card
    for key in ("name", "config_sha256", "weights_sample_sha256"):
        if new["base"].get(key) and old["base"].get(key, new["base"][key]) != new["base"][key]:
            return "major", "another base model"
    if new["chat_template_sha256"] != old.get("chat_template_sha256"):
        return "major", "another chat template"
    if new["data"]["train_sha256"] != old["data"].get("train_sha256"):
        return "minor", "other training data"
    return "patch", "the same base, template and training data"


def register(
    root: Path,
    run: str | os.PathLike,
    name: str,
    *,
    bump: str | None = None,
    force: str | None = None,
    report: str | os.PathLike | None = None,
) -> version_store.Version:
    """Publish a completed run as the next version of `name`, and return that.

    Problem if the run is not completed, its adapter is not sound, or the gate closes.
    """
    names.check_name(name)
    folder, final = find_run(run, root / "runs")
    check_state(folder)
    if report and not Path(report).is_file():
        raise console.Misuse(f"no report at {report}", "python scripts/eval.py writes one")
    report = Path(report or folder / "report.json")
    evaluated = gate.evaluation(report)
    card = cards.build(folder, final, evaluated)
    chosen: dict[str, Any] = {}

    def number() -> names.VersionNumber:
        versions = chosen["versions"] = version_store.readable(root, name)
        chosen["gate"] = gate.decide(evaluated, versions, force)
        latest = versions[-1] if versions else None
        kind, why = (bump, "asked for") if bump else choose_bump(card, latest)
        chosen["bump"] = {"kind": kind, "why": why}
        return names.after(version_store.latest_number(root, name), kind)

    def fill(version: version_store.Version) -> None:
        sources = version_files.sources(final, report)
        copied = version_files.copy(sources, version.folder, card["base"]["name"])
        warn_of_twin(chosen.pop("versions"), copied)
        whole = {"name": name, "version": version.version} | card | chosen | {"files": copied}
        wrong = card_schema.problem(whole)
        if wrong:  # nobody could read the version, and its number would be taken
            raise console.Problem(
                f"{paths.show(folder)}: its card.json would not be readable: {wrong}",
                "copy the run again, or correct its report.json",
            )
        publish.json_file(version.folder / cards.FILE, whole)

    return version_store.publish_version(root, name, number, fill)


def warn_of_twin(versions: list[version_store.Version], copied: dict[str, Any]) -> None:
    """Warn where a version has the same weights already."""
    for version in versions:
        if version.card["files"].get(weights.FILE) == copied[weights.FILE]:
            console.warn(f"{version.reference} has the same weights")
