"""What every reader of a card.json may count on: the one check at the reading of a card.

A card can come from a host or an archive. Types, lengths, forms and finite numbers are checked
here; unknown keys stay, because a newer register may write some.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

from adapters import names, peft_config, weights
from transfer import card_files

FORMAT = 1
MOST_FILES = 1000
MOST_NUMBER = 1 << 53  # a count or a size above it is none
MOST_TEXT = 2000  # characters of a text that is shown
TIME = "%Y-%m-%dT%H:%M:%SZ"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
Predicate = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """A text that can be shown in one line."""
    return isinstance(value, str) and len(value) <= MOST_TEXT and not _CONTROL.search(value)


def is_named(value: Any) -> bool:
    return is_text(value) and bool(value)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_NUMBER


def is_rank(value: Any) -> bool:
    return is_count(value) and value >= 1


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300


def is_time(value: Any) -> bool:
    try:
        return is_text(value) and bool(datetime.datetime.strptime(value, TIME))
    except ValueError:
        return False


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def are_modules(value: Any) -> bool:
    """A list of names, or a pattern."""
    return is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


def are_measures(value: Any) -> bool:
    """{metric: {"value", "low", "high"}}, numbers all."""
    return isinstance(value, dict) and all(
        is_text(name) and isinstance(m, dict) and all(is_number(m.get(k)) for k in BOUNDS)
        for name, m in value.items()
    )


BOUNDS = ("value", "low", "high")
REQUIRED: dict[str, Predicate] = {
    "name": lambda value: isinstance(value, str) and bool(names.NAME.fullmatch(value)),
    "version": lambda value: isinstance(value, str) and names.number(value) is not None,
    "created": is_time, "config": is_object, "data": is_object,
    "run.id": is_named, "base.name": is_named, "gate.status": is_named,
    "bump.kind": is_text, "bump.why": is_text,
    "adapter.r": is_rank, "adapter.max_rank": is_rank, "adapter.parameters": is_count,
}  # fmt: skip
OPTIONAL: dict[str, Predicate] = {  # where they are there and not null
    "run.step": is_number, "run.loss": is_number, "run.state": is_text,
    "base.revision": is_text, "base.config_sha256": is_text, "base.weights_sha256": is_text,
    "base.weights_sample_sha256": is_text, "base.weights_bytes": is_count,
    "adapter.lora_alpha": is_number, "adapter.target_modules": are_modules,
    "adapter.modules_to_save": are_modules, "adapter.bias": is_text,
    "chat_template_sha256": is_text, "environment_lock_sha256": is_text,
    "data.train_sha256": is_text, "data.manifest_sha256": is_text,
    "config.model": is_object, "config.quantization": is_object,
    "gate.reason": lambda value: isinstance(value, str), "gate.compared_with": is_text,
    "evaluation": is_object, "evaluation.settings": is_object,
    "evaluation.dataset.sha256": is_text, "evaluation.dataset.rows": is_count,
    "evaluation.difference": are_measures,
}  # fmt: skip
OF_EVALUATION: dict[str, Predicate] = {
    "evaluation.dataset": is_object, "evaluation.metrics": are_measures,
    "evaluation.base": are_measures,
}  # fmt: skip


def problem(card: Any) -> str | None:
    """Why `card` cannot be read, in a few words; None for a sound card."""
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        return f"not a card of format {FORMAT}"
    required = REQUIRED | (OF_EVALUATION if card.get("evaluation") is not None else {})
    for key, fits in required.items():
        if not fits(_at(card, key)):
            return f"its {key} is missing or damaged"
    for key, fits in OPTIONAL.items():
        value = _at(card, key)
        if value is not None and not fits(value):
            return f"its {key} is damaged"
    return _wrong_files(card)


def _at(card: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, None where it is missing."""
    value: Any = card
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _wrong_files(card: dict[str, Any]) -> str | None:
    """What is wrong with the list of files."""
    listed = card_files.listed_files(card)
    if listed is None:
        return "it does not list its files"
    if len(listed) > MOST_FILES:
        return f"it lists more than {MOST_FILES} files"
    if len({name.casefold() for name in listed}) < len(listed):
        return "two of its files would be one on a disk that ignores case"
    for name, (_, size) in listed.items():
        parts = name.split("/")
        if name.casefold() == card_files.CARD or not all(map(names.PART.fullmatch, parts)):
            return "a name in its list of files is not a plain one"
        if size is None or size > MOST_NUMBER:
            return "its list of files has no sizes"
    for name in (weights.FILE, peft_config.FILE):
        if name not in listed:
            return f"its list of files has no {name}"
    return None
