"""A base model's folder: is everything there, whole, of one revision, and does it fit together?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from base_model import (
    base_checks,
    description,
    hashes,
    locate,
    model_folder,
    safetensors_header,
    tokenizer,
    tokenizer_checks,
    weight_files,
)
from base_model.identity import INDEX
from base_model.model_folder import ModelFolder
from checks import storage
from kit import console, paths
from kit.report import STATUSES, Check

_PARTS = re.compile(r".*\.(incomplete|part|partial|aria2|crdownload|tmp)$")


def checks(model: ModelFolder, revision: str | None = None) -> list[Check]:
    """Everything but the hashes; reads a few hundred KB of any model."""
    if not model.folder.is_dir():
        text = f"{paths.show(model.folder)} is not there"
        return [Check("folder", "fail", text, model.again)]
    if not any(model.folder.iterdir()):
        return [Check("folder", "fail", f"{paths.show(model.folder)} is empty", model.again)]
    if (model.folder / locate.ADAPTER_CONFIG).is_file():
        text = "an adapter, not a base model (adapter_config.json)"
        fix = "name the base model's folder"
        return [Check("folder", "fail", text, fix)]
    looked_at = [*_half_downloads(model), *_pointers(model)]
    looked_at += [*weight_files.checks(model), *_sizes(model)]
    looked_at += [*_config(model), *_tokenizer(model), *_revision(model, revision)]
    kept: dict[str, Check] = {}
    for check in looked_at:  # one line a file: its worst finding, the first of equals
        so_far = kept.setdefault(check.name, check)
        kept[check.name] = max(so_far, check, key=lambda c: STATUSES.index(c.status))
    return [*kept.values(), *_second_copies(model)]


def _half_downloads(model: ModelFolder) -> Iterator[Check]:
    roots = [model.folder]
    if locate.snapshot(model.folder):
        roots.append(model.folder.parent.parent / "blobs")
    parts = sorted(p for root in roots for p in root.rglob("*") if _PARTS.match(p.name))
    if parts:
        text = f"{len(parts)} unfinished files, {paths.show(parts[0])} first"
        yield Check("download", "fail", text, f"{model.again} (goes on where it stopped)")
    for link in sorted(model.folder.glob("*")):
        if link.is_symlink() and not link.exists():
            yield Check(
                link.name, "fail", "a link to nowhere", f"rm {paths.show(link)} && {model.again}"
            )


def _pointers(model: ModelFolder) -> Iterator[Check]:
    for path in sorted(model.folder.glob("*")):
        small = path.is_file() and path.stat().st_size < 1024
        if small and safetensors_header.is_pointer(path):
            fix = f"git lfs pull in that folder, or {model.afresh(path.name)}"
            yield Check(path.name, "fail", "a Git-LFS pointer, not the file", fix)


def _sizes(model: ModelFolder) -> list[Check]:
    """Every known file that is needed is there; every known file has its size."""
    if not model.facts:
        return []
    wrong, missing, count = [], [], 0
    for entry in model.facts["files"]:
        path = model.folder / entry["path"]
        if not path.is_file():
            if entry["needed"] and not path.name.endswith(".safetensors"):
                missing.append(entry["path"])
            continue
        count += 1
        size = path.stat().st_size
        if size == entry["size"] or safetensors_header.is_pointer(path):
            continue
        text = f"{size:,} bytes, {entry['size']:,} are known"
        weights = path.name.endswith(".safetensors")
        status = "fail" if weights or size == 0 else "warn"
        fix = model.afresh(entry["path"]) + ("" if weights else " (or it is of a later revision)")
        wrong.append(Check(path.name, status, text, fix))
    good = Check("files", "ok", f"{count} files of {model.name} have the known sizes")
    return weight_files.missing_files(model, missing, "known for this model") + wrong or [good]


def _config(model: ModelFolder) -> list[Check]:
    """config.json: there, JSON, of a model that writes text, and of the shapes of the weights."""
    path = model.folder / "config.json"
    if not path.is_file():
        return [Check("config.json", "fail", "not there", model.again)]
    try:
        described = description.read(model.folder)
    except console.Problem:
        again = model.afresh("config.json")
        return [Check("config.json", "fail", "not JSON with a model_type", again)]
    wrong = base_checks.misfits(described)
    dtype = described.raw.get("dtype") or described.raw.get("torch_dtype") or "no dtype"
    text = f"{described.model_type}, {dtype}" + (", fits the weights" if described.tensors else "")
    fit = Check("config.json", "ok", text)
    if wrong:
        text = f"does not fit the weights: {wrong}"
        fit = Check("config.json", "fail", text, model.again)
    parts = [base_checks.architecture, base_checks.custom_code, base_checks.quantised]
    return [fit, *(check for part in parts for check in part(described))]


def _tokenizer(model: ModelFolder) -> list[Check]:
    files = [n for n in tokenizer.FILES if (model.folder / n).is_file()]
    if not files:
        return [Check("tokenizer", "fail", f"none of {', '.join(tokenizer.FILES)}", model.again)]
    template = (model.folder / "chat_template.jinja").is_file()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = model.folder / name
        if not path.is_file():
            continue
        if safetensors_header.is_pointer(path):
            return []
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return [Check(name, "fail", "not JSON (cut off?)", model.afresh(name))]
        template = template or isinstance(value, dict) and "chat_template" in value
    if not template:
        fix = "use the Instruct model, or set model.chat_template in configs/training_config.yaml"
        return [Check("tokenizer", "warn", f"{files[0]}, no chat template", fix)]
    return [Check("tokenizer", "ok", f"{', '.join(files)}, with a chat template")]


def tokenizer_truth(model: ModelFolder) -> list[Check]:
    """The tokenizer loaded and tried; a skip where transformers is not installed."""
    try:
        words = tokenizer.load(model.folder)
    except ModuleNotFoundError as error:
        return [Check("text", "skip", f"not tried, {error.name} is not installed here")]
    except console.Problem as problem:
        return [Check("text", "fail", problem.text, problem.remedy)]
    return tokenizer_checks.checks(words, description.read(model.folder))


def _revision(model: ModelFolder, wanted: str | None) -> list[Check]:
    known_one = (model.facts or {}).get("revision")
    commits = hashes.commits(model.folder)
    name = "revision"
    if wanted or len(commits) > 1:
        fix = f"{model.again} --revision {wanted or known_one or 'main'}"
        return [base_checks.revision(model.folder, wanted or "", fix)]
    if not commits:
        return [Check(name, "skip", "unknown: not downloaded with `hf download`")]
    commit = commits.pop()
    if known_one and commit != known_one:
        fix = f"{model.again} --revision {known_one}, or keep it: --hash compares the weights"
        return [Check(name, "warn", f"{commit[:12]}, {known_one[:12]} is the known one", fix)]
    return [Check(name, "ok", commit)]


def _second_copies(model: ModelFolder) -> list[Check]:
    names = ("consolidated.safetensors", "original", "pytorch_model.bin")
    if not (model.folder / INDEX).is_file():
        return []
    copies = []
    for path in (model.folder / n for n in names if (model.folder / n).exists()):
        size = storage.used(path) if path.is_dir() else path.stat().st_size
        text = f"{console.size(size)}, a second copy of the weights that nothing here reads"
        copies.append(Check(path.name, "skip", f"{text}; may be deleted"))
    return copies


def summary(name: str, known: dict[str, dict[str, Any]]) -> tuple[Check, bool]:
    """(the configured base model without hashes, whether it is gated and still to be fetched)."""
    model = model_folder.find(name, known)
    if model is None:
        text = f"{name} is not there"
        fix = f"hf download {name}, or correct model.model_name_or_path"
        if "/models/" in f"/{name}":
            fix = f"hf download ORG/{Path(name).name} --local-dir {name} (docs/MODEL_DOWNLOAD.md)"
        return Check("base model", "warn", text, fix), False
    where = paths.show(model.folder)
    if not model.folder.is_dir() or not any(model.folder.iterdir()):
        gated = bool((model.facts or {}).get("gated"))
        return Check("base model", "warn", f"{where} is not there", model.again), gated
    wrong = [c for c in checks(model) if c.status == "fail"]
    if wrong:
        text = f"{where}: {wrong[0].name}: {wrong[0].found}"
        return Check("base model", "fail", text, f"python scripts/verify_model.py {name}"), False
    return Check("base model", "ok", f"{where} (verify_model.py --hash reads every byte)"), False
