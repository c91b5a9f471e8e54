"""The keys of a JSON object, taken one by one: what nobody takes is counted by its name.

A value that should be text and is not (a number, an object, a list) is a bad row, never its
JSON or Python text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from corpus.rows import BadRow

_TEXT_PARTS = ("text", "input_text", "output_text")
MISSING_CELLS = frozenset(("nan", "<NA>", "NaT"))  # as astype(str) of pandas writes them
# ... and what stands for no input, no context, no system text
NOTHING = MISSING_CELLS | {"NaN", "None", "null", "<noinput>", "<no input>", "noinput", "No input",
                           "N/A", "n/a"}  # fmt: skip
_KINDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object",
          list: "a list"}  # fmt: skip


def is_empty(value: Any) -> bool:
    """Nothing there: null, NaN (what pandas writes for a missing cell), '', [] or {}."""
    if value is None or value == "" or value == [] or value == {}:
        return True
    return isinstance(value, float) and math.isnan(value)


def kind_of(value: Any) -> str:
    """'a number', 'an object': what a value is, in words."""
    return _KINDS.get(type(value), type(value).__name__)


class Fields:
    """One object of a row. `name` precedes its keys in messages: 'messages[].'."""

    def __init__(self, record: dict[str, Any], name: str = ""):
        self.record = record
        self.names = set(record)
        self.name = name
        self._values = {key: value for key, value in record.items() if not is_empty(value)}
        self._taken: set[str] = set()
        self.inner: list[str] = []  # keys that nobody took of objects within this one

    def __contains__(self, key: str) -> bool:
        """Whether the key has a value that is not empty."""
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def take(self, *keys: str) -> Any:
        """The value of the first of `keys` that has one, which then counts as used; else None."""
        for key in keys:
            if key in self._values:
                self._taken.add(key)
                return self._values[key]
        return None

    def peek(self, *keys: str) -> Any:
        """The value that take() would give; it does not count as used."""
        return next((self._values[key] for key in keys if key in self._values), None)

    def text(self, *keys: str) -> str:
        """The text of the first of `keys` that has a value; '' where none has. Raises BadRow."""
        key = next((key for key in keys if key in self._values), None)
        return "" if key is None else self.text_of(self.take(key), key)

    def further_text(self, *keys: str) -> str:
        """`text` of what a row may do without: a word for 'nothing there' is no text.

        Its key then counts as unused.
        """
        key = next((key for key in keys if key in self._values), None)
        value = None if key is None else self._values[key]
        if isinstance(value, str) and value.strip() in NOTHING:
            return ""
        return self.text(*keys)

    def text_of(self, value: Any, key: str) -> str:
        """`value` as text: a text, or a list of OpenAI's text parts, which are joined."""
        if is_empty(value):
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(part, dict) for part in value):
            return "".join(self._part(Fields(part, f"{key}[]."), key) for part in value)
        raise BadRow("not text", f"{self.name}{key} is {kind_of(value)}")

    def _part(self, part: Fields, key: str) -> str:
        kind = part.take("type") or ("text" if "text" in part.names else "none")
        if kind not in _TEXT_PARTS:
            raise BadRow("not text", f"a part of {self.name}{key} is of type {str(kind)[:40]}")
        text = part.take("text")
        if text is not None and not isinstance(text, str):
            raise BadRow("not text", f"the text of a part of {self.name}{key} is {kind_of(text)}")
        self.keep_unused(part)
        return text or ""

    def left(self) -> set[str]:
        """The keys with a value that nobody took yet."""
        return set(self._values) - self._taken

    def unused(self) -> list[str]:
        """The names of the keys with a value that nobody took, here and in objects within."""
        return [f"{self.name}{key}" for key in self._values if key not in self._taken] + self.inner

    def keep_unused(self, within: Fields) -> None:
        """Count the unused keys of an object within this one as unused here."""
        self.inner += [f"{self.name}{key}" for key in within.unused()]
