"""The base model of an adapter: where it lies on this machine, and whether it is the right one.

A path says nothing (laptop and host differ), and neither do names or shapes: a model and its
Instruct twin have the same. So its identity is config.json, the index of its weights, and a
sample of their bytes: cheap for any size.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from adapters.weights import Difference
from kit import console, paths, publish

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SAMPLES, BLOCK = 16, 4096  # blocks a file, bytes a block


def find(name: str | None, revision: str | None = None) -> Path | None:
    """A base model's folder on this machine: a path, a folder below models/, the hub's cache."""
    if not name:
        return None
    below = Path(name).expanduser()
    for folder in (below, paths.workdir() / below, paths.folder("models") / below.name):
        if (folder / "config.json").is_file():
            return folder
    return _cached(name, revision) if name.count("/") == 1 and not name.startswith(".") else None


def locate(section: dict[str, Any], given: str | os.PathLike | None = None) -> Path | None:
    """The folder for a card's `base` section: `given`, or where its name lies; None for nowhere.

    Misuse where `given` holds no model.
    """
    if not given:
        return find(section["name"], section.get("revision"))
    folder = find(str(given))
    if folder is None:
        raise console.Misuse(f"no base model at {given} (no config.json)", "correct --base")
    return folder


def _cached(name: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except (ImportError, ValueError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def relative(name: str) -> str:
    """A model's name as a card keeps it: no path of this machine; hub names stay as they are."""
    path = Path(name)
    if not path.is_absolute():
        return name
    for root in (paths.workdir(), paths.ROOT):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return f"models/{path.name}"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights; Problem where one that the index names is missing."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            fix = "download it again (docs/MODEL_DOWNLOAD.md)"
            raise console.Problem(f"{paths.show(index)}: not an index of weights", fix) from None
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / SINGLE] if (folder / SINGLE).is_file() else []
        files = files or sorted(folder.glob("pytorch_model*.bin"))
    missing = [f.name for f in files if not f.is_file()]
    if missing or not files:
        what = f"{missing[0]} is missing" if missing else "no weights there"
        fix = "finish the download; python scripts/verify_model.py lists what lacks"
        raise console.Problem(f"the base model {paths.show(folder)} is not whole ({what})", fix)
    return files


def identity(folder: str | os.PathLike) -> dict[str, Any]:
    """{"config_sha256", "weights_sha256"?, "weights_bytes", "weights_sample_sha256"} of a model.

    weights_sha256 is that of the index; a model of one file has none here (it may be large).
    weights_sample_sha256 is over name, size and 16 blocks of 4 KB of each file of weights.
    """
    folder = Path(folder)
    files = weight_files(folder)
    found: dict[str, Any] = {"config_sha256": publish.sha256(folder / "config.json")}
    if (folder / INDEX).is_file():
        found["weights_sha256"] = publish.sha256(folder / INDEX)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as f:
            for i in range(SAMPLES):
                f.seek(max(0, size - BLOCK) * i // (SAMPLES - 1))
                digest.update(f.read(BLOCK))
    found["weights_bytes"] = sum(f.stat().st_size for f in files)
    found["weights_sample_sha256"] = digest.hexdigest()
    return found


def check(wanted: dict[str, Any], folder: Path, reference: str) -> None:
    """Difference unless `folder` is the base model that a card's `base` section describes."""
    here = identity(folder)
    if not (folder / INDEX).is_file() and "weights_sample_sha256" not in wanted:
        here["weights_sha256"] = publish.sha256(folder / SINGLE)  # all that a run recorded
    names = {
        "config_sha256": "its config.json",
        "weights_sha256": "its index of weights" if (folder / INDEX).is_file() else "its weights",
        "weights_bytes": "the size of its weights",
        "weights_sample_sha256": "its weights",
    }
    for key, what in names.items():
        if key in wanted and key in here and wanted[key] != here[key]:
            raise Difference(
                paths.show(folder),
                f"not the base model of {reference}: {what} differs from {wanted['name']}",
                f"give the right one with --base (trained on {wanted['name']}"
                f"{', revision ' + wanted['revision'] if wanted.get('revision') else ''})",
            )
