"""Loads a configuration: file < environment section < TANDEM_ variables < --set.

Unknown keys, duplicate keys and wrong types are errors with file, line and nearest key.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import console, paths

# file stem -> (module under config.schemas, class): the kinds of configuration that there are
KINDS = {
    "training_config": ("training", "TrainingConfig"),
    "data_config": ("data", "DataConfig"),
    "eval": ("evaluation", "EvalConfig"),
    "rlhf": ("rlhf", "RlhfConfig"),
    "models": ("models", "ModelsConfig"),
}
Key = tuple[str | int, ...]


class ConfigError(console.Misuse):
    """All that is wrong with one configuration; `errors` has one line for each."""

    def __init__(self, errors: Sequence[str]):
        self.errors = list(errors)
        many = f"{len(self.errors)} errors\n" if len(self.errors) > 1 else ""
        super().__init__(many + "\n".join(self.errors))


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
    values, origins = _read_yaml(path, errors)
    errors += _errors_elsewhere(values, origins, schema, path)
    _apply_environment_section(values, origins, path, errors, paths.environment())
    _apply_variables(values, origins, schema, errors)
    _apply_overrides(values, origins, overrides, errors)
    result = _validate(schema, values, origins, errors, path)
    if errors:
        raise ConfigError(errors)
    return result


def _find(config: str | os.PathLike) -> Path:
    path = Path(config)
    for candidate in (path, paths.ROOT / "configs" / path, paths.ROOT / path):
        if candidate.is_file():
            return candidate
    there = sorted(p.name for p in (paths.ROOT / "configs").glob("*.yaml"))
    near = difflib.get_close_matches(path.name, there, 1, 0)
    raise console.Misuse(f"{path}: no such configuration", f"did you mean configs/{near[0]}?")


# --- reading YAML with positions --------------------------------------------------------------


def _loader():
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that reads 2e-4 as a number, as YAML 1.2 and everybody does."""

    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("float", "int")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = (
        r"^[-+]?(\d[\d_]*\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\.(inf|Inf|INF)|\.(nan|NaN))$"
    )
    whole = r"^[-+]?(0|[1-9][\d_]*|0x[\da-fA-F]+)$"  # not 010 (8) nor 12:30 (750), as YAML 1.1
    for kind, form in (("int", whole), ("float", number)):
        Loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{kind}", re.compile(form), list("-+0123456789.")
        )
    return yaml, Loader


def scalar(text: str) -> Any:
    """The value that `text` has in YAML: '2e-4' 0.0002, 'false' False, '[a, b]' a list."""
    yaml, loader = _loader()
    return yaml.load(text, Loader=loader)  # noqa: S506  (a SafeLoader)


def _read_yaml(path: Path, errors: list[str]) -> tuple[dict[str, Any], dict[Key, str]]:
    """The file's values, and where each key stands ('file:line'); a ConfigError if no YAML."""
    yaml, _ = _loader()
    shown = paths.show(path)
    try:
        return _build_yaml(path, shown, errors)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{shown}: not UTF-8 ({error.reason}); save it as UTF-8"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        what = " ".join(what.split())
        raise ConfigError([f"{shown}{line}: not YAML: {what}; mend that line"]) from None
    except RecursionError:
        raise ConfigError([f"{shown}: nested without end; write it flat"]) from None
    except ValueError as error:  # a date or a number that is none
        raise ConfigError([f"{shown}: a value is not YAML: {error}; quote it"]) from None


def _build_yaml(path: Path, shown: str, errors: list[str]) -> tuple[dict[str, Any], dict[Key, str]]:
    yaml, loader = _loader()
    origins: dict[Key, str] = {}
    reader = loader(path.read_text(encoding="utf-8-sig"))
    root = reader.get_single_node()
    if root is None:
        return {}, origins

    def build(node, key: Key) -> Any:
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = str(reader.construct_object(name_node, deep=True))
                where = f"{shown}:{name_node.start_mark.line + 1}"
                if name in result:
                    first = origins[(*key, name)].rpartition(":")[2]
                    errors.append(
                        f"{where}: {_dotted((*key, name))} stands twice (first in line {first}); "
                        f"delete one of them"
                    )
                    continue
                origins[(*key, name)] = where
                result[name] = build(value_node, (*key, name))
            return result
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                origins[(*key, i)] = f"{shown}:{item.start_mark.line + 1}"
            return [build(item, (*key, i)) for i, item in enumerate(node.value)]
        return reader.construct_object(node, deep=True)

    values = build(root, ())
    if not isinstance(values, dict):
        raise ConfigError([f"{shown}:1: sections expected at the top, such as `training:`"])
    return values, origins


# --- the layers above the file ----------------------------------------------------------------


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


def _errors_elsewhere(values, origins, schema, path: Path) -> list[str]:
    """What only the other machine's section does wrong: better said here than there."""
    (other,) = {"local", "remote"} - {paths.environment()}
    sections = values.get("environments")
    if not isinstance(sections, dict) or not isinstance(sections.get(other), dict):
        return []
    found: dict[str | None, list[str]] = {other: [], None: []}
    for name, errors in found.items():
        trial, places = copy.deepcopy(values), dict(origins)
        _apply_environment_section(trial, places, path, [], name)
        _validate(schema, trial, places, errors, path)
    return [line for line in found[other] if line not in found[None]]


def _apply_environment_section(
    values, origins, path: Path, errors: list[str], chosen: str | None
) -> None:
    sections = values.pop("environments", None) or {}
    if not isinstance(sections, dict):
        errors.append(f"{origins[('environments',)]}: environments holds `local:` and `remote:`")
        return
    for name in set(sections) - {"local", "remote"}:
        near = difflib.get_close_matches(name, ("local", "remote"), 1, 0)[0]
        where = origins[("environments", name)]
        errors.append(f"{where}: environments.{name}: unknown key; did you mean {near}?")
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


def _apply_variables(values, origins, schema, errors: list[str]) -> None:
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith("TANDEM_") or "__" not in variable:
            continue
        key = tuple(variable[len("TANDEM_") :].lower().split("__"))
        if key[0] in schema.model_fields:
            try:
                layer = _nest(key, scalar(text))
            except Exception:
                errors.append(f"{variable}: the value is not YAML; quote it")
                continue
            _merge(values, origins, layer, lambda k, v=variable: v)


def _apply_overrides(values, origins, overrides: Sequence[str], errors: list[str]) -> None:
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            errors.append(f"--set {text}: not KEY=VALUE; write --set training.max_steps=10")
            continue
        try:
            parsed = scalar(value)
        except Exception:
            errors.append(f"--set {text}: the value is not YAML; quote it")
            continue
        key = tuple(name.split("."))
        _merge(values, origins, _nest(key, parsed), lambda k, t=text: f"--set {t}")


def _nest(key: Key, value: Any) -> dict:
    for name in reversed(key):
        value = {name: value}
    return value


# --- validation -------------------------------------------------------------------------------


def _validate(schema, values, origins, errors: list[str], path: Path):
    from pydantic import ValidationError

    try:
        return schema.model_validate(values)
    except ValidationError as failed:
        seen = set()
        for error in failed.errors():
            key, where = _locate(error["loc"], origins, path)
            named = f"{_dotted(key)}: " if key else ""  # a rule of the whole file has no key
            line = f"{where}: {named}{_say(error, key, schema)}"
            if (where, key) not in seen:  # one line a key, though a union has one error a branch
                seen.add((where, key))
                errors.append(line)
    errors.sort(key=_by_place)
    return None


def _locate(loc: Key, origins: dict[Key, str], path: Path) -> tuple[Key, str]:
    """The part of pydantic's location that stands in the file, and where that is."""
    known = tuple(loc)
    while known and known not in origins:
        known = known[:-1]
    return known or tuple(loc), origins.get(known, paths.show(path))


def _say(error: dict[str, Any], key: Key, schema) -> str:
    if error["type"] == "extra_forbidden":
        fields = _fields_at(schema, key[:-1])
        near = difflib.get_close_matches(str(key[-1]), fields, 1, 0.5)
        known = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(fields))}"
        return f"unknown key; {known}"
    if error["type"] == "missing":
        return f"{_dotted(error['loc'])} is missing; add it"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    given = error["input"]
    shown = (
        repr(given)
        if isinstance(given, str | int | float | bool | None)
        else "a " + type(given).__name__
    )
    text = error["msg"].replace("Input should be ", "")
    return f"{shown} is not {text}" if text != error["msg"] else f"{shown}: {text}"


def _fields_at(schema, key: Key) -> list[str]:
    """The names that the schema knows at `key`, where every step is a section."""
    import typing

    for name in key:
        field = getattr(schema, "model_fields", {}).get(name)
        if field is None:
            candidates = [schema]
        else:
            candidates = [field.annotation]
        while candidates:  # through Optional, list[...] and dict[str, ...] to the section
            schema = candidates.pop()
            if hasattr(schema, "model_fields"):
                break
            candidates.extend(typing.get_args(schema))
    return list(getattr(schema, "model_fields", {}))


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _by_place(line: str):
    match = re.match(r"(.*?):(\d+): ", line)
    return (0, match[1], int(match[2])) if match else (1, line, 0)
