"""Compare a version with its card. Needs no torch; the base model only for its own comparison."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapters import card, peft_config, weights
from adapters.version_store import RESTORE, Version
from adapters.weights import Difference
from base_model import chat_template, identity, locate
from kit import console, publish
from transfer import card_files


def verify(version: Version, base_folder: Path | None = None) -> dict[str, Any]:
    """Facts of a sound version; raises the first Difference from its card.

    The base is compared if it is on this machine, or in `base_folder`.
    """
    facts = version.card
    check_identity(version, facts)
    check_files(version.folder, facts)
    adapter = check_contents(version.folder, facts)
    return {
        "reference": version.reference,
        "files": len(facts["files"]),
        "bytes": sum(entry["bytes"] for entry in facts["files"].values()),
        "r": facts["adapter"]["r"],
        "parameters": adapter.parameters,
        "base": check_base(version.reference, facts, adapter, base_folder),
    }


def check_identity(version: Version, facts: dict[str, Any]) -> None:
    """Difference for another version's card: a folder that was copied or renamed, or a link."""
    if (facts.get("name"), facts.get("version")) != (version.name, version.version):
        text = f"it is of {facts.get('name')}@{facts.get('version')}, not of {version.reference}"
        raise Difference(card.FILE, text, RESTORE)


def check_files(folder: Path, facts: dict[str, Any]) -> None:
    """Every file of the card is there with its size and hash, and no other file or link."""
    listed = card_files.listed_files(facts)
    if listed is None:
        raise Difference(card.FILE, "it does not list its files", RESTORE)

    def size_of(name: str) -> int | None:
        file = folder / name
        return None if file.is_symlink() or not file.is_file() else file.stat().st_size

    difference = card_files.first_difference(
        listed, present_files(folder), size_of, lambda name: publish.sha256(folder / name)
    )
    if difference:
        name, what = difference
        raise Difference(name, what, RESTORE if name in listed else f"delete {name}")


def present_files(folder: Path) -> list[str]:
    """Everything below a version's folder but folders; a link to a folder is an entry, too."""
    present = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        here = os.path.relpath(parent, folder).replace(os.sep, "/")
        present += [name if here == "." else f"{here}/{name}" for name in (*files, *links)]
    return present


def check_contents(folder: Path, facts: dict[str, Any]) -> weights.Adapter:
    """The weights fit their configuration, and both are what the card describes."""
    adapter = weights.inspect(folder)
    config = adapter.config
    for key in ("r", "lora_alpha", "target_modules", "modules_to_save"):
        if config.get(key) != facts["adapter"].get(key):
            text = f"{key} is {config.get(key)}, the card says {facts['adapter'].get(key)}"
            raise Difference(peft_config.FILE, text, RESTORE)
    if adapter.rank != facts["adapter"]["max_rank"]:
        text = f"rank {adapter.rank}, the card says {facts['adapter']['max_rank']}"
        raise Difference(weights.FILE, text, RESTORE)
    named = config.get("base_model_name_or_path")
    if named != facts["base"]["name"]:
        text = f"its base is {named}, the card says {facts['base']['name']}"
        raise Difference(peft_config.FILE, text, RESTORE)
    template = chat_template.sha256(chat_template.of_folder(folder))
    if template and template != facts["chat_template_sha256"]:
        raise Difference("chat_template.jinja", "not the template of the card", RESTORE)
    return adapter


def check_base(reference: str, facts, adapter, folder: Path | None) -> str:
    """'same', or why it was not compared; Difference for another model."""
    wanted = facts["base"]
    place = locate.of_card(wanted, folder)
    if place is None:
        return "not on this machine"
    try:
        identity.weight_files(place)
    except console.Problem:
        if folder:
            raise
        return "not compared (its download is not whole)"
    identity.check(wanted, place, reference)
    weights.check_shapes(adapter, place)
    return "same" if "config_sha256" in wanted else "not recorded"
