"""The layers above a configuration file: its environment section, TANDEM_ variables, --set."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.yaml_reader import Key, scalar


def _merge(values: dict, origins: dict[Key, str], layer: dict, where, key: Key = ()) -> None:
    """Lay `layer` over `values`; `where(key)` says where a value of the layer comes from."""
    for name, value in layer.items():
        here = (*key, name)
        origins[here] = where(here)
        if isinstance(value, dict) and isinstance(values.setdefault(name, {}), dict):
            _merge(values[name], origins, value, where, here)
        else:
            for old in [k for k in origins if k[: len(here)] == here and k != here]:
                del origins[old]
            values[name] = value


def apply_environment_section(
    values, origins, path: Path, errors: list[str], chosen: str | None
) -> None:
    """Replace the section `environments` by what it holds for this machine."""
    sections = values.pop("environments", None) or {}
    if not isinstance(sections, dict):
        errors.append(f"{origins[('environments',)]}: environments holds `local:` and `remote:`")
        return
    for name in set(sections) - {"local", "remote"}:
        closest = difflib.get_close_matches(name, ("local", "remote"), 1, 0)[0]
        where = origins[("environments", name)]
        errors.append(f"{where}: environments.{name}: unknown key; did you mean {closest}?")
    for name, section in sections.items():
        if not isinstance(section, dict | None):
            where = origins[("environments", name)]
            errors.append(f"{where}: environments.{name} holds sections, such as `training:`")
    inside = ("environments", chosen)
    if isinstance(sections.get(chosen), dict):
        file_origins = dict(origins)
        _merge(
            values, origins, sections[chosen], lambda k: file_origins.get((*inside, *k), str(path))
        )


def apply_variables(values, origins, schema, errors: list[str]) -> None:
    """Lay TANDEM_SECTION__KEY variables over the values."""
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith("TANDEM_") or "__" not in variable:
            continue
        key = tuple(variable[len("TANDEM_") :].lower().split("__"))
        if key[0] in schema.model_fields:
            try:
                layer = _nest(key, scalar(text))
            except ValueError:
                errors.append(f"{variable}: the value is not YAML; quote it")
                continue
            _merge(values, origins, layer, lambda k, v=variable: v)


def apply_overrides(values, origins, overrides: Sequence[str], errors: list[str]) -> None:
    """Lay the KEY=VALUE texts of --set over the values."""
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            errors.append(f"--set {text}: not KEY=VALUE; write --set training.max_steps=10")
            continue
        try:
            parsed = scalar(value)
        except ValueError:
            errors.append(f"--set {text}: the value is not YAML; quote it")
            continue
        key = tuple(name.split("."))
        _merge(values, origins, _nest(key, parsed), lambda k, t=text: f"--set {t}")


def _nest(key: Key, value: Any) -> dict:
    for name in reversed(key):
        value = {name: value}
    return value
