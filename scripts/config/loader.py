"""Loads a configuration: file < environment section < TANDEM_ variables < --set.

Unknown keys, duplicate keys and wrong types are errors with file, line and nearest key.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from config import explanations, layers, yaml_reader
from config.yaml_reader import ConfigError
from kit import console, paths

# file stem -> (module under config.schemas, class): the kinds of configuration that there are
KINDS = {
    "training_config": ("training", "TrainingConfig"),
    "data_config": ("data", "DataConfig"),
    "eval": ("evaluation", "EvalConfig"),
    "rlhf": ("rlhf", "RlhfConfig"),
    "models": ("models", "ModelsConfig"),
    "jobs": ("jobs", "JobsConfig"),
}


def schema_of(kind: str):
    """The pydantic class for a kind, 'training_config' say."""
    module, name = KINDS[kind]
    return getattr(importlib.import_module(f"config.schemas.{module}"), name)


def kind_of(path: Path) -> str:
    """The kind a file's name says: configs/fsdp/training_config.yaml, my_training_config.yaml."""
    for kind in KINDS:
        if path.stem == kind or path.stem.endswith(f"_{kind}") or path.stem.startswith(f"{kind}_"):
            return kind
    return "training_config"


def load(config: str | os.PathLike = "training_config.yaml", overrides: Sequence[str] = (), *,
         kind: str | None = None):  # fmt: skip
    """The validated configuration as a pydantic object.

    `config`: a path, or a name in configs/. `overrides`: 'a.b=c' texts. Raises ConfigError.
    """
    path = _find(config)
    schema = schema_of(kind or kind_of(path))
    errors: list[str] = []
    values, origins = yaml_reader.read(path, errors)
    errors += _errors_elsewhere(values, origins, schema, path)
    layers.apply_environment_section(values, origins, path, errors, paths.environment())
    layers.apply_variables(values, origins, schema, errors)
    layers.apply_overrides(values, origins, overrides, errors)
    result = explanations.validate(schema, values, origins, errors, path)
    if errors:
        raise ConfigError(errors)
    return result


def _find(config: str | os.PathLike) -> Path:
    path = Path(config)
    for candidate in (path, paths.ROOT / "configs" / path, paths.ROOT / path):
        if candidate.is_file():
            return candidate
    names = sorted(p.name for p in (paths.ROOT / "configs").glob("*.yaml"))
    similar = difflib.get_close_matches(path.name, names, 1, 0)
    raise console.Misuse(f"{path}: no such configuration", f"did you mean configs/{similar[0]}?")


def _errors_elsewhere(values, origins, schema, path: Path) -> list[str]:
    """Errors of the other machine's section, found on this one before anything is sent."""
    (other,) = {"local", "remote"} - {paths.environment()}
    sections = values.get("environments")
    if not isinstance(sections, dict) or not isinstance(sections.get(other), dict):
        return []
    errors_of: dict[str | None, list[str]] = {other: [], None: []}
    for name, errors in errors_of.items():
        trial, places = copy.deepcopy(values), dict(origins)
        layers.apply_environment_section(trial, places, path, [], name)
        explanations.validate(schema, trial, places, errors, path)
    return [line for line in errors_of[other] if line not in errors_of[None]]
