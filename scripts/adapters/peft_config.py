"""Reads adapter_config.json of a LoRA. The types of its keys are checked here, for all readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model.identity import Difference
from base_model.locate import ADAPTER_CONFIG
from kit import json_files

FILE = ADAPTER_CONFIG
AGAIN = "save the adapter again with PEFT's save_pretrained, or fetch it again"


def read(folder: Path) -> dict[str, Any]:
    """The configuration of a PEFT folder; Difference where it is missing, damaged or no LoRA."""
    try:
        config = json_files.read(folder / FILE)
    except FileNotFoundError:
        raise Difference(FILE, "missing", AGAIN) from None
    except ValueError as error:
        raise Difference(FILE, f"not a PEFT configuration ({error})", AGAIN) from None
    kind = config.get("peft_type")
    if not isinstance(kind, str):
        raise Difference(FILE, "not a PEFT configuration", AGAIN)
    if kind != "LORA":
        raise Difference(FILE, f"peft_type {kind} instead of LORA", "train with lora_trainer.py")
    if not _is_rank(config.get("r")):
        raise Difference(FILE, f"rank r is {_short(config.get('r'))}", AGAIN)
    for key, is_right in KEYS.items():
        if config.get(key) is not None and not is_right(config[key]):
            raise Difference(FILE, f"{key} is {_short(config[key])}", AGAIN)
    return config


def excluded(config: dict[str, Any], module: str) -> bool:
    """Whether exclude_modules names this module, by PEFT's rule (a regex, or ends of names)."""
    return _named(config.get("exclude_modules"), module)


def targeted(config: dict[str, Any], module: str) -> bool:
    """Whether target_modules names this module, by PEFT's rule."""
    wanted = config.get("target_modules")
    return wanted == "all-linear" or _named(wanted, module)


def has_target_parameter(config: dict[str, Any], module: str) -> bool:
    """Whether target_parameters names a parameter of this module (fused experts, for example)."""
    while module.endswith(".base_layer"):  # where PEFT wraps a module once for each parameter
        module = module.removesuffix(".base_layer")
    owners = [name.rpartition(".")[0] for name in config.get("target_parameters") or []]
    return any(module == owner or module.endswith(f".{owner}") for owner in owners)


def rank_of(config: dict[str, Any], module: str) -> int:
    """The rank that the configuration gives a module: r, or what rank_pattern says."""
    return _by_pattern(config.get("rank_pattern"), module, config["r"])


def scale_of(config: dict[str, Any], module: str) -> float:
    """What the product B·A of a module is multiplied with."""
    rank = rank_of(config, module)
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha") or rank)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that the module's name ends with, as PEFT looks it up."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _named(wanted: list[str] | str | None, module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted or [])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- the types of the keys; every one may be null ---------------------------------------------


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 20


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scale(value: Any) -> bool:
    """0 would scale all that was learned away."""
    return _is_number(value) and value != 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _are_whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


def _is_pattern(value: Any) -> bool:
    """A regular expression that Python compiles."""
    try:
        re.compile(rf"(.*\.)?({value})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return isinstance(value, str)


def _are_names_or_pattern(value: Any) -> bool:
    return _are_names(value) or (isinstance(value, str) and _is_pattern(value))


def _patterns_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The check of {pattern: value}."""
    return lambda value: (
        isinstance(value, dict)
        and all(_is_pattern(key) and is_right(inner) for key, inner in value.items())
    )


def _are_token_indices(value: Any) -> bool:
    by_module = isinstance(value, dict) and all(map(_are_whole_numbers, value.values()))
    return by_module or _are_whole_numbers(value)


def _are_layer_ranges(value: Any) -> bool:
    return isinstance(value, list) and all(_are_whole_numbers(p) and len(p) == 2 for p in value)


KEYS: dict[str, Callable[[Any], bool]] = {
    "lora_alpha": _is_scale, "lora_dropout": _is_number,
    "rank_pattern": _patterns_of(_is_rank), "alpha_pattern": _patterns_of(_is_number),
    "target_modules": _are_names_or_pattern, "exclude_modules": _are_names_or_pattern,
    "modules_to_save": _are_names, "target_parameters": _are_names,
    "layer_replication": _are_layer_ranges, "trainable_token_indices": _are_token_indices,
    "bias": lambda value: value in ("none", "all", "lora_only"),
    "init_lora_weights": lambda value: isinstance(value, bool | str),
    "base_model_name_or_path": _is_text, "revision": _is_text, "task_type": _is_text,
    **dict.fromkeys(("use_dora", "use_rslora", "use_qalora", "lora_bias", "fan_in_fan_out"),
                    _is_switch),
}  # fmt: skip
