"""Where a base model lies on this machine: one lookup for every command. Nothing is downloaded.

A name is tried as a path (here, then below the work folder), as a folder of models/, and as a
snapshot in the Hugging Face cache. `known` maps names to entries of configs/models.yaml, so that
Llama-3.1-8B-Instruct also finds meta-llama/Llama-3.1-8B-Instruct in the cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from checks import storage
from kit import console, paths

COMMIT = re.compile(r"[0-9a-fA-F]{7,40}")  # a commit or its beginning; shorter is a branch's name

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's

Known = Mapping[str, Mapping[str, Any]]


def known() -> dict[str, dict[str, Any]]:
    """base_models of configs/models.yaml. Raises ModuleNotFoundError without PyYAML."""
    from config import loader

    return loader.load("models.yaml").model_dump()["base_models"]


def key_of(name: str, known: Known) -> str | None:
    """The name in `known` that `name` means: the name itself, its repository, or models/NAME."""
    short = name.rstrip("/").rpartition("/")[2]
    key = next((k for k in known if k.lower() == short.lower()), None)
    if key and name.lower() not in (key.lower(), known[key]["repo"].lower()):
        return key if Path(name).parent.name == "models" else None
    return key


def folders(name: str, revision: str | None = None, known: Known | None = None) -> Iterator[Path]:
    """The folders that exist under this name, the best first."""
    if not name or "\0" in name:
        return
    given = Path(name).expanduser()
    key = key_of(name, known or {})
    usual = paths.folder("models") / (key or given.name)
    for folder in (given, paths.workdir() / given, usual):
        if _is_folder(folder):
            yield Path(os.path.abspath(folder))
    entry = (known or {}).get(key or "", {})
    repository = entry.get("repo") or name
    yield from _snapshots(repository, revision)
    if revision is None and entry.get("revision"):
        yield from _snapshots(repository, entry["revision"])


def find(name: str | None, revision: str | None = None, known: Known | None = None) -> Path | None:
    """The first of `folders` that holds a config.json, None where there is none."""
    candidates = folders(name or "", revision, known)
    return next((folder for folder in candidates if (folder / "config.json").is_file()), None)


def require(name: str, revision: str | None = None) -> Path:
    """The folder of a configured model. Problem where it is not on this machine."""
    folder = find(name, revision)
    if folder is None:
        raise console.Problem(
            f"no model at {name} (no config.json there)",
            "download it as docs/MODEL_DOWNLOAD.md says, or correct model.model_name_or_path",
        )
    return folder


def of_card(base: Mapping[str, Any], given: str | os.PathLike | None = None) -> Path | None:
    """The folder for a card's `base` section: `given`, or where its name lies; None for nowhere.

    Misuse where `given` holds no model.
    """
    if not given:
        return find(base["name"], base.get("revision"))
    folder = find(str(given))
    if folder is None:
        raise console.Misuse(f"no base model at {given} (no config.json)", "correct --base")
    return folder


def relative(name: str) -> str:
    """A model's name as a card keeps it: no path of this machine; hub names stay as they are."""
    path = Path(name)
    if not path.is_absolute():
        return name
    for root in (paths.workdir(), paths.ROOT):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return f"models/{path.name}"


def snapshot(folder: Path) -> tuple[str, str] | None:
    """('org/name', revision) if `folder` is a snapshot in the Hugging Face cache."""
    repository, commit = folder.parent.parent.name, folder.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1), commit
    return None


def fits(folder: Path, commit: str, revision: str) -> bool | None:
    """Whether the commit in `folder` is the revision; None for an unknown branch or tag."""
    reference = folder.parent.parent / "refs" / revision
    if snapshot(folder) and _is_file(reference):
        return reference.read_text(encoding="utf-8").strip() == commit
    return commit.startswith(revision.lower()) if COMMIT.fullmatch(revision) else None


def _snapshots(repository: str, revision: str | None) -> Iterator[Path]:
    """The cached snapshot of a revision (a commit's beginning, a branch, a tag), or of main."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or repository.startswith("."):
        return
    home = storage.hf_cache() / f"models--{repository.replace('/', '--')}"
    reference = home / "refs" / (revision or "main")
    if _is_file(reference):  # a branch or tag: the name of its snapshot, whatever it looks like
        name = reference.read_text(encoding="utf-8", errors="replace").strip()
        cached = home / "snapshots" / name
        if name == cached.name and _is_folder(cached):
            yield cached
    elif revision is None or COMMIT.fullmatch(revision):
        yield from sorted((home / "snapshots").glob(f"{(revision or '').lower()}*"))[:1]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long to exist
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
