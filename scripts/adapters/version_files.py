"""Choose the files of a run that a version gets, and copy them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adapters import names, peft_config, weights
from kit import publish

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")  # unsafe to load, and nothing needs them
NOT_PEFT = ("runs", "checkpoints", "card.json")  # what trackers and trainers write there


def sources(final: Path, report: Path) -> dict[str, Path]:
    """{name in the version: file} of a PEFT folder, and of report.json and report.html if there."""
    named = {}
    for file in sorted(final.rglob("*")):
        parts = file.relative_to(final).parts
        hidden = any(part.startswith((".", "checkpoint-")) for part in parts)
        if not (file.is_dir() or hidden or file.suffix in PICKLES or parts[0] in NOT_PEFT):
            named["/".join(parts)] = file
    reports = {"report.json": report, "report.html": report.with_suffix(".html")}
    return named | {name: file for name, file in reports.items() if file.is_file()}


def copy(named: dict[str, Path], stage: Path, base_name: str) -> dict[str, dict[str, Any]]:
    """Copy the files to `stage`; return the card's `files`: {name: {"sha256", "bytes"}}.

    adapter_config.json and PEFT's README.md get the base's portable name: no path of this machine.
    """
    config = peft_config.read(named[peft_config.FILE].parent)
    for name, source in named.items():
        if source.is_symlink():
            fix = "replace the link by the file itself"
            raise weights.Difference(name, "a link, not a file", fix)
        if not all(names.PART.fullmatch(part) for part in name.split("/")):
            fix = "use letters, digits, '.', '_' and '-'"
            raise weights.Difference(name, "a name that not every system takes", fix)
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == peft_config.FILE:
            portable = config | {"base_model_name_or_path": base_name}
            text = json.dumps(portable, indent=2, sort_keys=True)
            target.write_text(text + "\n", encoding="utf-8")
        elif name == "README.md" and config.get("base_model_name_or_path"):
            trained_on = config["base_model_name_or_path"].encode()
            target.write_bytes(source.read_bytes().replace(trained_on, base_name.encode()))
        else:
            shutil.copyfile(source, target)
    return {name: entry(stage / name) for name in sorted(named)}


def entry(file: Path) -> dict[str, Any]:
    """One file's entry in the card."""
    return {"sha256": publish.sha256(file), "bytes": file.stat().st_size}
