"""Explains what pydantic found: file, line, key, and the nearest right key."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from config.yaml_reader import Key, dotted
from kit import paths


def validate(schema, values, origins, errors: list[str], path: Path):
    """The pydantic object, or None with one line for each mistake added to `errors`."""
    from pydantic import ValidationError

    try:
        return schema.model_validate(values)
    except ValidationError as failed:
        seen = set()
        for error in failed.errors():
            key, where = _locate(error["loc"], origins, path)
            named = f"{dotted(key)}: " if key else ""  # a rule of the whole file has no key
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
        similar = difflib.get_close_matches(str(key[-1]), fields, 1, 0.5)
        known = (
            f"did you mean {similar[0]}?" if similar else f"known here: {', '.join(sorted(fields))}"
        )
        return f"unknown key; {known}"
    if error["type"] == "missing":
        return f"{dotted(error['loc'])} is missing; add it"
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


def _by_place(line: str):
    match = re.match(r"(.*?):(\d+): ", line)
    return (0, match[1], int(match[2])) if match else (1, line, 0)
