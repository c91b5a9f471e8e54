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
# keys that formats or the loss may care for: most of them make a row a bad one
KEYS = re.findall(
    r"\w+",
    "images choices options label kto_tag weight train loss mask loss_mask reasoning "
    "reasoning_content thinking input context passage history system system_prompt answers answer "
    "output response completion prompt question instruction tools functions conversations rejected "
    "chosen audio videos rejected_response response_k",
)
# keys that mean nothing to learning, besides names that nobody knows
PLAIN = re.findall(r"\w+", "id title score category meta text topic source passage context input")
TURN_KEYS = re.findall(
    r"\w+",
    "weight train masked images audio reasoning_content thinking tool_call_id value loss_mask "
    "function_call",
)
PLAIN_TURN_KEYS = re.findall(r"\w+", "name refusal timestamp id tags")
unknown = st.sampled_from([f"key_that_nobody_knows_{i}" for i in range(50)])


def texts():
    """A text that occurs once in a record, of several words."""
    return st.integers(10**6, 10**9).map(lambda number: f"text{number} and more")


odd = st.one_of(
    st.none(), st.just(float("nan")), st.just(float("inf")), st.booleans(), st.just(""),
    st.integers(900_001, 900_009), st.just(900_010.5), st.just([]), st.just({}), st.just("  "),
    st.just({"ODDKEY": 900_011}), st.just(["ODDITEM", 900_012]), st.just([[900_013]]),
    st.just([{"ODDKEY": "ODDITEM"}]), st.just([{"type": "text", "text": 900_014}]),
)  # fmt: skip
values = st.one_of(texts(), odd)


def mostly_text(share: int = 8):
    """A text; once in `share` times an odd value, so that most rows are read to their end."""
    return st.one_of(*[texts()] * (share - 1), odd)


@st.composite
def parts(draw) -> list[dict]:
    """A content of OpenAI's text parts, which may have keys of their own."""
    more = st.dictionaries(unknown, values, max_size=1)
    return [{"type": "text", "text": draw(texts())} | draw(more)
            for _ in range(draw(st.integers(1, 2)))]  # fmt: skip


@st.composite
def extras(draw, plain: list[str], special: list[str]) -> dict[str, Any]:
    """Keys beside those of a format: some that nobody knows, rarely one that may matter."""
    names = st.one_of(st.sampled_from(plain), unknown)
    made = draw(st.dictionaries(names, values, max_size=3))
    if draw(st.integers(1, 4)) == 4:
        made[draw(st.sampled_from(special))] = draw(values)
    return made


@st.composite
def turns(draw) -> list[dict]:
    made = []
    for _ in range(draw(st.integers(1, 2))):
        for role in ("user", "assistant"):
            content = draw(st.one_of(mostly_text(16), parts()))
            made.append(draw(extras(PLAIN_TURN_KEYS, TURN_KEYS)) | {"role": role}
                        | {"content": content})  # fmt: skip
    return made


@st.composite
def answers(draw) -> Any:
    """The answers of a question, as SQuAD, TriviaQA and others write them."""
    two = [draw(texts()), draw(texts())]
    return draw(
        st.sampled_from(
            [
                two[0],
                two,
                {"text": two, "answer_start": [900_001, 900_002]},
                {"value": two[0], "aliases": two, "type": "WikipediaEntity"},
            ]
        )
    )


FORMS = ("messages", "prompt", "transcript", "alpaca", "question", "pair", "instances")


@st.composite
def records(draw, forms: tuple[str, ...] = FORMS) -> dict[str, Any]:
    text = mostly_text
    form = draw(st.sampled_from(forms))
    record: dict[str, Any] = {
        "messages": lambda: {"messages": draw(turns())},
        "prompt": lambda: {"prompt": draw(text()), "completion": draw(text())},
        "transcript": lambda: {"prompt": f"\n\nHuman: {draw(texts())}\n\nAssistant:",
                               "completion": draw(text())},
        "alpaca": lambda: {"instruction": draw(text()), "output": draw(text())},
        "question": lambda: {"question": draw(text()), "answers": draw(answers())},
        "pair": lambda: {"prompt": draw(text()), "chosen": draw(text()), "rejected": draw(text())},
        "instances": lambda: {
            "instruction": draw(texts()),
            "instances": [draw(extras(PLAIN, KEYS)) | {"input": draw(text())}
                          | {"output": draw(text())}]},
    }[form]()  # fmt: skip
    return draw(extras(PLAIN, KEYS)) | record


def strings(value: Any) -> list[str]:
    """Every text inside a value; of a transcript those that were drawn."""
    if isinstance(value, str):
        return re.findall(r"text\d+ and more", value) or [value]
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


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_not_in_the_rows_is_counted_by_its_key(form, data):
    record = data.draw(records((form,)))
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
        if fields.is_empty(value) or key in (*OBEYED, "messages", "instances"):
            continue
        lost = [text for text in strings(value) if text.strip() and text not in kept]
        assert not lost or counted(key, unused), (key, value, unused)
        if not strings(value) and has_value(value):
            assert counted(key, unused), (key, value, unused)
    for name in ("messages", "instances"):
        for inner in record.get(name) or []:
            for key, value in inner.items():
                if key in (*OBEYED, "role") or fields.is_empty(value):
                    continue
                lost = [text for text in strings(value) if text.strip() and text not in kept]
                dropped = lost or not strings(value) and has_value(value)
                assert not dropped or counted(f"{name}[].{key}", unused), (key, unused)


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


def test_most_of_the_records_are_read_to_their_end():
    """What is refused at once tests nothing."""
    read = []

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(records())
    def draw(record):
        read.append(rows_of(record) is not None)

    draw()
    assert sum(read) > len(read) / 3
