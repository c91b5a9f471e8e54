"""The answers that count as right, as SQuAD, TriviaQA and others write them in a record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from corpus.fields import Fields, is_empty
from corpus.rows import NO_ANSWER, BadRow
from corpus.sources.readers import loads

_OBJECT = re.compile(r"""\s*\{\s*["'](?:text|value|aliases|answer_start)["']\s*:""")
_LIST = re.compile(r"""\s*(?:array\()?\[\s*["']""")


def _has_none(value: Any) -> bool:
    """Whether it says that the question has no answer, as SQuAD 2.0 writes that."""
    return value == [] or isinstance(value, dict) and value.get("text") == []


def answers_key(f: Fields, keys: Iterable[str]) -> str | None:
    """The key of a record's answers: one that has an answer, else one that says it has none."""
    named = [key for key in keys if key in f.names]
    return next((k for k in named if k in f and not _has_none(f.peek(k))), next(iter(named), None))


def _read(value: Any, key: str) -> Any:
    """Answers that a table has as JSON text, as an object or list; other values as they are.

    A text that begins like SQuAD's object is one; under `answers` a list is one, too. Raises BadRow
    where it is Python's or NumPy's writing of them.
    """
    if not isinstance(value, str) or not (
        _OBJECT.match(value) or (key == "answers" and _LIST.match(value))
    ):
        return value
    try:
        return loads(value)
    except json.JSONDecodeError:
        raise BadRow("not text", f"{key} has answers written out, not as JSON") from None


def references_of(value: Any, f: Fields, key: str) -> list[str]:
    """The answers that count as right: a text, a list, SQuAD's {"text": …}, TriviaQA's
    {"value": …, "aliases": …}. The first is the one that is learned. [""] for a question without
    an answer (SQuAD 2.0). Raises BadRow."""
    value = _read(value, key)
    if _has_none(value):
        return list(NO_ANSWER)
    if is_empty(value) and value != "":
        raise BadRow("no answer", f"{key} is empty")
    if isinstance(value, list) and any(isinstance(v, dict) and "type" not in v for v in value):
        texts = [references_of(one, f, f"{key}[]")[0] for one in value]  # SQuAD's own files
        return list(dict.fromkeys(texts))
    if isinstance(value, dict):
        inner = Fields(value, f"{key}.")
        first = inner.take("text", "value")
        aliases = inner.take("aliases")
        f.keep_unused(inner)
        if is_empty(first):
            raise BadRow("not text", f"{key} is an object without text or value")
        value = [first, *aliases] if isinstance(aliases, list) else first
    if isinstance(value, list) and not any(isinstance(part, dict) for part in value):
        if not value or not all(isinstance(text, str) for text in value):
            raise BadRow("not text", f"{key} is a list of other things than texts")
        return list(dict.fromkeys(value))
    return [f.text_of(value, key)]
