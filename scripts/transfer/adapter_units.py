"""Which files of adapters/ belong together: versions, a run's final/ and its checkpoints.

adapters/NAME/vX.Y.Z/…                immutable; what its card.json lists, no more, no less
adapters/runs/ID/final/…              whole with a configuration and weights
adapters/runs/ID/checkpoints/C/…      whole once the trainer wrote its state, which comes last
Everything else (status.json, reports) stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

VERSION = re.compile(r"v\d{1,9}\.\d{1,9}\.\d{1,9}[A-Za-z0-9.+-]*")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # of an adapter or a run
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CONFIGURATIONS = ("adapter_config.json", "config.json")
WEIGHTS = (".safetensors", ".bin", ".pt", ".npz")
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt")
TRAINER_STATE = "trainer_state.json"  # the last file that the trainer writes of a checkpoint


def unit_of(path: str) -> str:
    """The folder that `path` is published with, '' for a file that stands for itself."""
    parts = path.split("/")
    if parts[0] != "adapters" or len(parts) < 4:
        return ""
    if parts[1] != "runs":
        return "/".join(parts[:3]) if VERSION.fullmatch(parts[2]) else ""
    if parts[3] == "final" and len(parts) > 4:
        return "/".join(parts[:4])
    if parts[3] == "checkpoints" and len(parts) > 5:
        return "/".join(parts[:5])
    return ""


def is_version(unit: str) -> bool:
    """Whether the unit is an immutable version, not a part of a run."""
    return bool(unit) and not unit.startswith("adapters/runs/")


def is_checkpoint(unit: str) -> bool:
    """Whether the unit is a checkpoint of a run."""
    return unit.startswith("adapters/runs/") and unit.split("/")[3] == "checkpoints"


def why_form(path: str) -> str:
    """Why a path below adapters/ has no form that is known here, or ''."""
    parts = path.split("/")
    if parts[0] == "adapters" and len(parts) > 2 and not NAME.fullmatch(parts[1]):
        return "is not below the name of an adapter"
    if parts[:2] == ["adapters", "runs"] and len(parts) > 3 and not RUN_ID.fullmatch(parts[2]):
        return "is not below a run id"
    return ""


def missing_part(unit: str, names: Iterable[str]) -> str:
    """What a run's final/ or checkpoint with the files `names` lacks to be whole, or ''."""
    names = {name.rpartition("/")[2] for name in names}
    if is_checkpoint(unit):
        if unit.rpartition("/")[2].startswith("tmp-"):  # transformers renames it when it is whole
            return "its final name"
        return "" if TRAINER_STATE in names else TRAINER_STATE
    if is_version(unit):
        return ""
    if not names.intersection(CONFIGURATIONS):
        return CONFIGURATIONS[0]
    has_weights = any(n.endswith(WEIGHTS) and n not in NO_WEIGHTS for n in names)
    return "" if has_weights else "its weights"
