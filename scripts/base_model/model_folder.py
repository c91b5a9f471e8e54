"""A base model's folder with what configs/models.yaml knows about it."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from base_model import locate
from base_model.identity import INDEX
from kit import paths, publish


@dataclasses.dataclass
class ModelFolder:
    """A folder to look at. `facts`: its entry of configs/models.yaml as a dict, None if unknown."""

    folder: Path
    name: str
    facts: dict[str, Any] | None = None

    @property
    def again(self) -> str:
        """The command that downloads what is missing or differs; what is whole stays."""
        facts, folder = self.facts or {}, shlex.quote(paths.show(self.folder))
        cached = locate.snapshot(self.folder)
        repo = facts.get("repo") or (cached[0] if cached else "ORG/" + self.name)
        left_out = "".join(f" --exclude {shlex.quote(p)}" for p in facts.get("exclude", []))
        place = "" if cached else f" --local-dir {folder}"
        return f"hf download {repo}{place}{left_out}"

    def afresh(self, file: str) -> str:
        """The command for a file that is there and wrong: hf would believe it to be complete."""
        return f"rm {shlex.quote(paths.show(self.folder / file))} && {self.again}"


def find(name: str, known: locate.Known, revision: str | None = None) -> ModelFolder | None:
    """The model that `name` means, None for nothing known.

    A known model that is nowhere is returned with the folder where it should be.
    """
    folder = next(locate.folders(name, revision, known), None)
    if folder is not None:
        return _named(folder.resolve(), known)
    key = locate.key_of(name, known)
    return ModelFolder(paths.folder("models") / key, key, dict(known[key])) if key else None


def _named(folder: Path, known: locate.Known) -> ModelFolder:
    """The folder under its known name: by its own name, or by the hash of its index."""
    cached = locate.snapshot(folder)
    name = cached[0].rpartition("/")[2] if cached else folder.name
    key = next((k for k in known if k.lower() == name.lower()), None)
    if key is None and (folder / INDEX).is_file():
        digest = publish.sha256(folder / INDEX)
        key = next((k for k in known if _index_hash(known[k]["files"]) == digest), None)
    return ModelFolder(folder, key or name, dict(known[key]) if key else None)


def _index_hash(files: list[dict[str, Any]]) -> str | None:
    return next((f.get("sha256") for f in files if f["path"] == INDEX), None)
