"""Reads YAML with the place of every key, as YAML 1.2 means it, in bounded time and memory.

    values, origins = yaml_reader.read(path, errors)     # origins: {key: 'file:line'}
    yaml_reader.scalar("2e-4")                           # 0.0002

Of YAML 1.1, which PyYAML speaks, two surprises are left out: 2e-4 is a number, and `no`, `off`,
`yes`, `on` are words (only true and false are booleans).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kit import console, paths

Key = tuple[str | int, ...]
MAX_BYTES = 1 << 20  # of one file: the longest of configs/ has 8 KB
MAX_VALUES = 20_000  # of one file with its anchors expanded: ten lines can stand for billions
MAX_DEPTH = 50


class ConfigError(console.Misuse):
    """All that is wrong with one configuration; `errors` has one line for each."""

    def __init__(self, errors: list[str]):
        self.errors = list(errors)
        many = f"{len(self.errors)} errors\n" if len(self.errors) > 1 else ""
        super().__init__(many + "\n".join(self.errors))


def _loader():
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with YAML 1.2's numbers and booleans."""

    replaced = ("float", "int", "bool")
    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in replaced]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = (
        r"^[-+]?(\d[\d_]*\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\.(inf|Inf|INF)|\.(nan|NaN))$"
    )
    whole = r"^[-+]?(0|[1-9][\d_]*|0x[\da-fA-F]+)$"  # not 010 (8) nor 12:30 (750), as YAML 1.1
    boolean = r"^(true|True|TRUE|false|False|FALSE)$"
    forms = (("int", whole, "-+0123456789."), ("float", number, "-+0123456789."))
    for kind, form, first in (*forms, ("bool", boolean, "tTfF")):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(form), list(first))
    return yaml, Loader


def scalar(text: str) -> Any:
    """The value that `text` has in YAML: '2e-4' 0.0002, 'false' False, '[a, b]' a list.

    Raises ValueError where it is no YAML, or too much of it.
    """
    yaml, _ = _loader()
    try:
        return _build(text, "value", [])[0]
    except (yaml.YAMLError, RecursionError, ConfigError) as error:
        raise ValueError(str(error)) from None


def read(path: Path, errors: list[str]) -> tuple[dict[str, Any], dict[Key, str]]:
    """The values of a file, and where each key stands ('file:line').

    A key that is there twice is appended to `errors`. Raises ConfigError where it is no YAML in
    UTF-8, larger than MAX_BYTES, or expands to more than MAX_VALUES.
    """
    yaml, _ = _loader()
    shown = paths.show(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            limit = console.size(MAX_BYTES)
            raise ConfigError([f"{shown}: larger than {limit}; a configuration is not data"])
        values, origins = _build(path.read_text(encoding="utf-8-sig"), shown, errors)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{shown}: not UTF-8 ({error.reason}); save it as UTF-8"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        what = " ".join(what.split())
        raise ConfigError([f"{shown}{line}: not YAML: {what}; correct that line"]) from None
    except RecursionError:
        raise ConfigError([f"{shown}: nested without end; write it flat"]) from None
    except ValueError as error:  # a date or a number that cannot be read
        raise ConfigError([f"{shown}: a value is not YAML: {error}; quote it"]) from None
    if values is None:
        return {}, origins
    if not isinstance(values, dict):
        raise ConfigError([f"{shown}:1: sections expected at the top, such as `training:`"])
    return values, origins


def _build(text: str, shown: str, errors: list[str]) -> tuple[Any, dict[Key, str]]:
    """The value of a YAML text with its anchors expanded, and the place of each key."""
    yaml, loader = _loader()
    origins: dict[Key, str] = {}
    if len(text) > MAX_BYTES:
        raise ConfigError([f"{shown}: larger than {console.size(MAX_BYTES)}"])
    reader = loader(text)
    root = reader.get_single_node()
    count = 0

    def build(node, key: Key) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(key) > MAX_DEPTH:
            what = "nested without end; write it flat"
            if count > MAX_VALUES:
                what = f"more than {MAX_VALUES:,} values with its anchors expanded; write fewer"
            raise ConfigError([f"{shown}:{node.start_mark.line + 1}: {what}"])
        if isinstance(node, yaml.MappingNode):
            return mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                origins[(*key, i)] = f"{shown}:{item.start_mark.line + 1}"
            return [build(item, (*key, i)) for i, item in enumerate(node.value)]
        return reader.construct_object(node, deep=True)

    def mapping(node, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(reader.construct_object(name_node, deep=True))
            where = f"{shown}:{name_node.start_mark.line + 1}"
            if name in values:
                first = origins[(*key, name)].rpartition(":")[2]
                errors.append(
                    f"{where}: {dotted((*key, name))} occurs twice (first in line {first}); "
                    f"delete one of them"
                )
                continue
            origins[(*key, name)] = where
            values[name] = build(value_node, (*key, name))
        return values

    return (None if root is None else build(root, ())), origins


def dotted(key: Key) -> str:
    """('training', 'max_steps') -> 'training.max_steps'."""
    return ".".join(map(str, key))
