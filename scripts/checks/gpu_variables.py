"""Variables that change what CUDA and torch get of a good driver: CUDA_VISIBLE_DEVICES and
CUDA_DEVICE_ORDER, LD_LIBRARY_PATH, BNB_CUDA_VERSION."""

from __future__ import annotations

import dataclasses
import os
import re

from checks.gpu_cards import Gpu
from checks.gpu_facts import SHADOWS
from kit.report import Check


def checks(cards: list[Gpu]) -> list[Check]:
    """One check a variable that is set; LD_LIBRARY_PATH always."""
    return [*_visible_devices(cards), *library_path(os.environ.get("LD_LIBRARY_PATH", "")), *_bnb()]


def visible_cards(cards: list[Gpu]) -> list[Gpu]:
    """The cards that a process gets, in CUDA's order; all of them where that is not certain.

    Of a card with MIG whose device is named, that device alone.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or _order_is_uncertain(setting, cards):
        return cards
    return _resolve(setting, cards)[0]


def _resolve(setting: str, cards: list[Gpu]) -> tuple[list[Gpu], str]:
    """(the cards that CUDA gives a process, the entry at which it stops reading or '').

    CUDA reads the list up to the first entry that names no device: what follows is hidden too. A
    card that is named twice hides all of them. A process gets one MIG device at most.
    """
    visible: list[Gpu] = []
    taken: set[int] = set()
    entries = [entry.strip() for entry in setting.split(",")]
    for entry in entries:
        card = _named(entry, cards)
        if card is None:
            return visible, entry
        if card.index in taken and (not card.slice_uuids or entries.count(entry) > 1):
            return [], entry
        if card.index not in taken:
            visible.append(_device_of(card, entry))
        taken.add(card.index)
    return visible, ""


def _device_of(card: Gpu, entry: str) -> Gpu:
    """The card, or of a card with MIG the one device that the entry names by its UUID."""
    sizes, names = card.slices_mib or [], card.slice_uuids
    chosen = [i for i, uuid in enumerate(names) if uuid.startswith(entry)]
    if not entry.startswith("MIG-") or len(chosen) != 1 or len(sizes) != len(names):
        return card
    (i,) = chosen
    return dataclasses.replace(card, slices_mib=[sizes[i]], slice_uuids=[names[i]])


def _named(entry: str, cards: list[Gpu]) -> Gpu | None:
    """The card that an index, a UUID or the beginning of one names."""
    if entry.isdigit():
        return next((c for c in cards if c.index == int(entry)), None)
    if entry.startswith("MIG-GPU-"):  # MIG-GPU-<uuid>/1/0, before driver 470
        entry = entry.removeprefix("MIG-").partition("/")[0]
    if not re.match(r"(GPU|MIG)-.", entry):
        return None
    fits = [c for c in cards for u in (c.uuid, *c.slice_uuids) if u and u.startswith(entry)]
    return fits[0] if len(fits) == 1 else None


def _order_is_uncertain(setting: str, cards: list[Gpu]) -> bool:
    """Whether CUDA may count the cards in another order than nvidia-smi: fastest first."""
    by_index = any(entry.strip().isdigit() for entry in setting.split(","))
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return by_index and not by_bus and len({card.name for card in cards}) > 1


def _visible_devices(cards: list[Gpu]) -> list[Check]:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not cards:
        return []
    name, text, fix = "CUDA_VISIBLE_DEVICES", f"{setting!r}", "unset CUDA_VISIBLE_DEVICES"
    if re.match(r"\s*(GPU|MIG)-", setting) and not any(card.uuid for card in cards):
        fix = "compare it with the UUIDs that nvidia-smi -L lists"
        return [Check(name, "warn", f"{text}: nvidia-smi lists no UUIDs to compare with", fix)]
    visible, stop = _resolve(setting, cards)
    if not visible:
        twice = stop and _named(stop, cards) is not None
        wrong = "is named twice" if twice else f"is none of the {len(cards)}"
        why = "hides every GPU" + (f": {stop!r} {wrong}" if stop else "")
        if any(card.slice_uuids for card in cards):
            fix += ", or name a MIG device by the UUID that nvidia-smi -L lists"
        return [Check(name, "fail", f"{text} {why}", fix)]
    if stop:
        shown = ", ".join(str(card.index) for card in visible)
        why = f"only gpu {shown} is used: {stop!r} is none of the {len(cards)}"
        return [Check(name, "warn", f"{text}: {why}", f"correct it, or {fix}")]
    if _order_is_uncertain(setting, cards):
        why = "CUDA counts the fastest card first, nvidia-smi by bus, and the cards differ"
        return [Check(name, "warn", f"{text}: {why}", "export CUDA_DEVICE_ORDER=PCI_BUS_ID")]
    return [Check(name, "ok", text)]


def library_path(setting: str) -> list[Check]:
    """Folders of LD_LIBRARY_PATH whose CUDA libraries are loaded instead of torch's own."""
    shadows = []
    for folder in filter(None, setting.split(":")):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        libraries = [n for n in names if SHADOWS.match(n)]
        if re.search(r"/(compat|stubs)(/|$)", folder):
            libraries += [n for n in names if n.startswith("libcuda.so")]
        shadows += [f"{folder}/{libraries[0]}"] if libraries else []
    if not setting:
        return [Check("LD_LIBRARY_PATH", "ok", "not set")]
    if not shadows:
        return [Check("LD_LIBRARY_PATH", "ok", "holds no CUDA library that torch brings itself")]
    text = f"shadows torch's CUDA libraries: {', '.join(shadows)}"
    return [Check("LD_LIBRARY_PATH", "warn", text, "unset LD_LIBRARY_PATH before training")]


def _bnb() -> list[Check]:
    setting = os.environ.get("BNB_CUDA_VERSION")
    if not setting:
        return []
    text = f"{setting}: bitsandbytes loads its library for that CUDA, not for torch's"
    return [Check("BNB_CUDA_VERSION", "warn", text, "unset BNB_CUDA_VERSION")]
