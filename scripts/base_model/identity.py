"""Which base model lies in a folder: one identity, cheap for any size.

A path says nothing (laptop and host differ), and neither do names or shapes: a model and its
Instruct twin have the same. So the identity is config.json, the index of the weights, and a
sample of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from kit import console, paths, publish

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Files that turn text into ids; settings and templates beside them are recorded apart.
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt",
             "merges.txt", "added_tokens.json")  # fmt: skip
SAMPLES, BLOCK = 16, 4096  # blocks a file, bytes a block


class Difference(console.Problem):
    """A file is not what a card or configuration says: `file` is where, `found` what, `fix` how."""

    def __init__(self, file: str, found: str, fix: str):
        self.file, self.found, self.fix = file, found, fix
        super().__init__(f"{file}: {found}", fix)


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
        fix = "finish the download; python scripts/verify_model.py lists what is missing"
        raise console.Problem(f"the base model {paths.show(folder)} is not whole ({what})", fix)
    return files


def identity(folder: str | os.PathLike) -> dict[str, Any]:
    """{"config_sha256", "weights_sha256"?, "weights_bytes", "weights_sample_sha256"} of a model.

    weights_sha256 is that of the index; a model of one file has none (the file may be large).
    weights_sample_sha256 is over name, size and 16 blocks of 4 KB of each file of weights.
    """
    folder = Path(folder)
    files = weight_files(folder)
    values: dict[str, Any] = {"config_sha256": publish.sha256(folder / "config.json")}
    if (folder / INDEX).is_file():
        values["weights_sha256"] = publish.sha256(folder / INDEX)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as f:
            for i in range(SAMPLES):
                f.seek(max(0, size - BLOCK) * i // (SAMPLES - 1))
                digest.update(f.read(BLOCK))
    values["weights_bytes"] = sum(f.stat().st_size for f in files)
    values["weights_sample_sha256"] = digest.hexdigest()
    return values


def tokenizer(folder: Path) -> str | None:
    """One hash of the files that turn text into ids; None where there are none."""
    hashes = {n: publish.sha256(folder / n) for n in TOKENIZER if (folder / n).is_file()}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest() if hashes else None


def as_hash(folder: str | os.PathLike) -> str:
    """The identity as one hash, for state files."""
    values = identity(folder)
    content = "weights_sha256" if "weights_sha256" in values else "weights_sample_sha256"
    chosen = {name: values[name] for name in ("config_sha256", content)}
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()


def is_recorded(base: dict[str, Any]) -> bool:
    """Whether a card's `base` section or a run's base_identity says anything about the weights."""
    return "weights_sha256" in base or "weights_sample_sha256" in base


def is_sampled(base: dict[str, Any], folder: Path) -> bool:
    """Whether the record needs no hash of a whole file of weights, as older runs have it."""
    return "weights_sample_sha256" in base or (folder / INDEX).is_file()


def check(wanted: dict[str, Any], folder: Path, reference: str) -> None:
    """Difference unless `folder` is the base model that a card's `base` section describes."""
    here = identity(folder)
    if (folder / SINGLE).is_file() and not is_sampled(wanted, folder):
        here["weights_sha256"] = publish.sha256(folder / SINGLE)  # what runs recorded formerly
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
