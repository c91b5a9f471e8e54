"""Rows drawn at random: no value is dropped without its key being counted, none is stringified."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import fields, formats, learning_keys
from corpus.rows import BadRow, Row, Unwanted

pytestmark = pytest.mark.slow

OBEYED = {*learning_keys.LABELS, *learning_keys.MARKS, *learning_keys.MASKS}
KEYS = re.findall(
    r"\w+",
    "id title score category meta text images choices options label kto_tag weight train loss mask "
    "loss_mask reasoning reasoning_content thinking input context passage history system topic "
    "system_prompt source answers answer output response completion prompt question instruction "
    "tools functions conversations rejected chosen audio videos rejected_response response_k",
)
TURN_KEYS = re.findall(
    r"\w+",
    "name weight train masked refusal images audio reasoning_content thinking tool_call_id value "
    "timestamp loss_mask function_call",
)


@st.composite
def texts(draw) -> str:
    """A text that occurs once in a record, of several words."""
    return f"text{draw(st.integers(10**6, 10**9))} and more"


odd = st.one_of(
    st.none(), st.just(float("nan")), st.just(float("inf")), st.booleans(), st.just(""),
    st.integers(900_001, 900_009), st.just(900_010.5), st.just([]), st.just({}), st.just("  "),
    st.just({"ODDKEY": 900_011}), st.just(["ODDITEM", 900_012]), st.just([[900_013]]),
    st.just([{"ODDKEY": "ODDITEM"}]), st.just([{"type": "text", "text": 900_014}]),
)  # fmt: skip
values = st.one_of(texts(), texts(), odd)


@st.composite
def turns(draw) -> list[dict]:
    count = draw(st.integers(1, 2))
    made = []
    for _ in range(count):
        for role in ("user", "assistant"):
            turn = {"role": role, "content": draw(values)}
            turn |= draw(st.dictionaries(st.sampled_from(TURN_KEYS), values, max_size=2))
            made.append(turn)
    return made


@st.composite
def records(draw) -> dict[str, Any]:
    form = draw(st.sampled_from(["messages", "prompt", "alpaca", "question", "pair", "instances"]))
    record: dict[str, Any] = {
        "messages": lambda: {"messages": draw(turns())},
        "prompt": lambda: {"prompt": draw(values), "completion": draw(values)},
        "alpaca": lambda: {"instruction": draw(values), "output": draw(values)},
        "question": lambda: {"question": draw(values), "answer": draw(values)},
        "pair": lambda: {"prompt": draw(values), "chosen": draw(values), "rejected": draw(values)},
        "instances": lambda: {"instruction": draw(texts()),
                              "instances": [{"input": draw(values), "output": draw(values)}]},
    }[form]()  # fmt: skip
    extra = draw(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
    return extra | record


def strings(value: Any) -> list[str]:
    """Every text inside a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    return [text for inner in value for text in strings(inner)] if isinstance(value, list) else []


def has_value(value: Any) -> bool:
    """Whether anything in it is not empty."""
    if isinstance(value, dict):
        return any(map(has_value, value.values()))
    if isinstance(value, list):
        return any(map(has_value, value))
    return not fields.is_empty(value)


def counted(name: str, unused: list[str]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for key in unused)


def rows_of(record: dict) -> list[Row] | None:
    try:
        return formats.rows_of(record)
    except (BadRow, Unwanted):
        return None


@settings(max_examples=200, deadline=None)
@given(records())
def test_what_is_not_in_the_rows_is_counted_by_its_key(record):
    rows = rows_of(record)
    if rows is None:
        return
    kept = "\n".join(
        text
        for row in rows
        for text in strings([row.messages, row.rejected or [], row.tools or [], row.topic or ""])
    )
    unused = [key for row in rows for key in row.unused]
    for key, value in record.items():
        if fields.is_empty(value) or key in OBEYED or key == "messages":
            continue
        lost = [text for text in strings(value) if text.strip() and text not in kept]
        assert not lost or counted(key, unused), (key, value, unused)
        if not strings(value) and has_value(value):
            assert counted(key, unused), (key, value, unused)
    for turn in record.get("messages") or []:
        for key, value in turn.items():
            lost = [text for text in strings(value) if text.strip() and text not in kept]
            known = key in (*OBEYED, "role") or fields.is_empty(value)
            assert known or not lost or counted(f"messages[].{key}", unused), (key, unused)


@settings(max_examples=200, deadline=None)
@given(records())
def test_no_value_that_is_not_text_becomes_text(record):
    for row in rows_of(record) or []:
        for message in row.messages + (row.rejected or []):
            for text in (message["content"], *map(str, message.values())):
                assert "9000" not in text and "ODD" not in text, (record, message)
                assert "nan" not in text and "None" not in text and "inf" not in text
            assert set(message) <= {"role", "content", "weight", *learning_keys.REASONING}


@settings(max_examples=200, deadline=None)
@given(records())
def test_what_is_written_is_json_that_reads_back_as_the_same_row(record):
    for row in rows_of(record) or []:
        if row.rejected is None:
            written = json.loads(json.dumps(row.sft(), allow_nan=False))
            try:
                (again,) = formats.rows_of(written)
            except Unwanted:
                continue
            assert (again.messages, again.tools) == (row.messages, row.tools)
