"""Select the model to serve: the best fine-tuned version whose gate passed, else the base.

Every version that an entry of configs/models.yaml allows is a candidate. Two are compared by the
score of the same evaluation; where they were evaluated on different data, the order of the
entries, and then the higher version, decides.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from adapters import gate, metrics, verification, version_store, weights
from base_model import locate
from kit import console


@dataclasses.dataclass
class Choice:
    """What was selected. `version` is None for the base model itself."""

    base_model: str
    base_folder: Path | None
    version: version_store.Version | None
    entry: str | None
    why: str
    rejected: list[dict[str, str]]

    @property
    def name(self) -> str:
        """'mapper-lora@v1.0.0', or the base model's name."""
        return self.version.reference if self.version else self.base_model

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "adapter" if self.version else "base",
            "entry": self.entry,
            "checkpoint": str(self.version.folder) if self.version else None,
            "base_model": self.base_model,
            "base_folder": str(self.base_folder) if self.base_folder else None,
            "why": self.why,
            "rejected": self.rejected,
        }


def base_folder(config, name: str) -> Path | None:
    """The folder of a base model of models.yaml (or any other) on this machine, None if absent."""
    return locate.find(name, known=config.model_dump()["base_models"])


def candidates(root: Path, entry) -> tuple[list[version_store.Version], list[dict[str, str]]]:
    """(versions of an entry that may answer, highest first; the others, each with its reason)."""
    try:
        versions = version_store.matching(root, entry.checkpoint)
    except console.Misuse as missing:
        return [], [{"name": entry.checkpoint, "why": str(missing)}]
    good, rejected = [], []
    for version in reversed(versions):
        why = refusal(version)
        if why:
            rejected.append({"name": version.reference, "why": why})
        else:
            good.append(version)
    return good, rejected


def refusal(version: version_store.Version) -> str | None:
    """Why a version may not answer, None if it may."""
    try:
        outcome = version.card["gate"]["status"]
    except weights.Difference as difference:
        return str(difference)
    if version.retired:
        return f"retired: {version.retired['reason']}"
    if outcome not in gate.PASSED:
        return f"its gate did not pass ({outcome})"
    canary = version.canary
    if canary and canary.get("ok", True) is not True:
        return f"its canary failed: {canary.get('why', 'it changes nothing')}"
    return None


def better(new: version_store.Version, old: version_store.Version) -> bool:
    """Whether `new` scored higher than `old` on the same evaluation."""
    one, two = new.card.get("evaluation"), old.card.get("evaluation")
    if not one or not two or not gate.same_evaluation(one, two):
        return False
    shared = [m for m in metrics.RANKED if m in one["metrics"] and m in two["metrics"]]
    if not shared:
        return False
    ours, theirs = (side["metrics"][shared[0]]["value"] for side in (one, two))
    return metrics.worse(shared[0], theirs, ours)


def select(root: Path, config, only: str | None = None) -> Choice:
    """The Choice for a ModelsConfig; `only` looks at one entry. The winner's files are verified."""
    entries = {only: config.entries[only]} if only else config.entries
    default = config.entries[only].base_model if only else config.selection.base_model
    if not config.selection.prefer_rag_finetuned:
        why = "prefer_rag_finetuned is false"
        return Choice(default, base_folder(config, default), None, None, why, [])
    eligible: list[tuple[str, version_store.Version]] = []
    rejected: list[dict[str, str]] = []
    for name, entry in entries.items():
        good, refused = candidates(root, entry)
        eligible += [(name, version) for version in good]
        rejected += refused
    while eligible:
        entry, winner = eligible[0]
        for name, version in eligible[1:]:
            if better(version, winner):
                entry, winner = name, version
        try:
            verification.check_files(winner.folder, winner.card)
        except (weights.Difference, OSError) as difference:
            rejected.append({"name": winner.reference, "why": str(difference)})
            eligible.remove((entry, winner))
            continue
        model = winner.card["base"]
        folder = locate.find(model["name"], model.get("revision"))
        folder = folder or base_folder(config, config.entries[entry].base_model)
        why = reason(winner, len(eligible))
        return Choice(model["name"], folder, winner, entry, why, rejected)
    why = "no adapter's gate passed" if rejected else "models.yaml has no entries"
    return Choice(default, base_folder(config, default), None, None, why, rejected)


def reason(winner: version_store.Version, count: int) -> str:
    """Why this version was taken, in words."""
    scored = gate.score((winner.card.get("evaluation") or {}).get("metrics") or {})
    score = f", {scored[0]} {scored[1]:.4f}" if scored else ""
    among = f"the best of {count} whose gate passed" if count > 1 else "the one whose gate passed"
    outcome = winner.card["gate"]
    forced = f", forced: {outcome['reason']}" if outcome["status"] == "forced" else ""
    return f"{among}{score}{forced}"
