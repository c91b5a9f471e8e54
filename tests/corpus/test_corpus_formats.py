"""Every row format is read into messages, and what cannot be is refused with its reason."""

from __future__ import annotations

import json
import re

import pytest

from corpus import formats, messages
from corpus.judge import validate
from corpus.rows import BadRow, Row, Unwanted


def one(record: dict) -> Row:
    rows = formats.rows_of(record)
    assert len(rows) == 1
    validate(rows[0])
    return rows[0]


def turns_of(row: Row) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in row.messages]


TALK = [("user", "Why?"), ("assistant", "Because.")]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Why?"},
                      {"role": "assistant", "content": "Because."}]},
        {"conversations": [{"from": "human", "value": "Why?"},
                           {"from": "gpt", "value": "Because."}]},
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": "Why?", "response": "Because."},
        {"prompt": [{"role": "user", "content": "Why?"}],
         "completion": [{"role": "assistant", "content": "Because."}]},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"instruction": "Why?", "response": "Because."},
        {"question": "Why?", "answer": "Because."},
        {"instruction": "Why?", "instances": [{"input": "", "output": "Because."}]},
        {"prompt": "Below is an instruction that describes a task. Write a response.\n\n"
         "### Instruction:\nWhy?\n\n### Response:\n", "response": "Because."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]},
                      {"role": "assistant", "content": "Because."}]},
    ],
)  # fmt: skip
def test_every_format_of_the_field_gives_the_same_conversation(record):
    assert turns_of(one(record)) == TALK


def test_the_alpaca_input_follows_the_instruction():
    row = one({"instruction": "Translate.", "input": "Haus", "output": "house"})
    assert row.messages[0]["content"] == "Translate.\n\nHaus"


def test_the_history_of_an_alpaca_row_comes_first_and_after_the_system_message():
    row = one({"instruction": "And 3+3?", "output": "6", "system": "Add.",
               "history": [["1+1?", "2"], ["2+2?", "4"]]})  # fmt: skip
    assert [m["content"] for m in row.messages] == [
        "Add.",
        "1+1?",
        "2",
        "2+2?",
        "4",
        "And 3+3?",
        "6",
    ]


def test_a_sharegpt_tool_call_becomes_a_call_with_an_object_and_a_result_with_its_id():
    row = one({
        "conversations": [
            {"from": "human", "value": "Area of a 5 by 3 rectangle?"},
            {"from": "function_call", "value": '{"name": "area", "arguments": {"sides": [5, 3]}}'},
            {"from": "observation", "value": '{"area": 15}'},
            {"from": "gpt", "value": "15."},
        ],
        "tools": '[{"name": "area", "parameters": {}}]',
    })  # fmt: skip
    call = row.messages[1]["tool_calls"][0]
    assert call["function"] == {"name": "area", "arguments": {"sides": [5, 3]}}
    assert re.fullmatch("[0-9A-Za-z]{9}", call["id"])
    assert row.messages[2] == {
        "role": "tool", "name": "area", "tool_call_id": call["id"], "content": '{"area": 15}',
    }  # fmt: skip
    assert row.tools == [{"type": "function", "function": {"name": "area", "parameters": {}}}]


def test_two_calls_in_one_turn_become_two_turns_because_llama_takes_one():
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    other = {"type": "function", "function": {"name": "g", "arguments": '{"x": 2}'}}
    row = one({"messages": [
        {"role": "user", "content": "Both."},
        {"role": "assistant", "content": None, "tool_calls": [call, other]},
        {"role": "tool", "content": "one"}, {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "Done."},
    ]})  # fmt: skip
    assert [m["role"] for m in row.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    names = [m["tool_calls"][0]["function"]["name"] for m in row.messages if "tool_calls" in m]
    assert names == ["f", "g"]
    assert [m["content"] for m in row.messages if m["role"] == "tool"] == ["one", "two"]
    assert all(len(m["tool_calls"]) == 1 for m in row.messages if "tool_calls" in m)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"question": "Q", "response_j": "good", "response_k": "bad"},
        {"conversations": [{"from": "human", "value": "Q"}],
         "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        {"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
         "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}]},
        {"prompt": "Q",
         "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
         "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}]},
    ],
)  # fmt: skip
def test_every_preference_format_gives_prompt_chosen_and_rejected(record):
    row = one(record).preference()
    assert row["prompt"] == [{"role": "user", "content": "Q"}]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]


def test_a_paired_row_with_a_chosen_of_its_own_is_read_by_its_pair():
    pair = {"question": "Q", "response_j": "good", "response_k": "bad"}
    assert one(pair | {"chosen": "j"}).preference() == one(pair).preference()


def test_a_user_who_says_the_same_twice_is_kept_twice_in_a_preference_prompt():
    shared = [{"role": "user", "content": "Again."}, {"role": "assistant", "content": "Hm."}] * 2
    end = {"role": "user", "content": "Again."}
    row = one({"chosen": [*shared, end, {"role": "assistant", "content": "yes"}],
               "rejected": [*shared, end, {"role": "assistant", "content": "no"}]})  # fmt: skip
    assert len(row.preference()["prompt"]) == 5


def test_kto_rows_with_a_false_label_are_not_wanted():
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for label in (False, 0, "False", " false", "0"):  # a table holds text
        with pytest.raises(Unwanted, match="labelled undesirable"):
            formats.rows_of({"messages": talk, "label": label})
    for label in (None, True, 1, "True", "weather"):
        assert len(formats.rows_of({"messages": talk, "label": label})) == 1


U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": []}, "no turns"),
        ({"messages": "hello"}, "no turns"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, "no turns"),
        ({"messages": [A]}, "no turns"),
        ({"messages": [U]}, "no answer"),
        ({"messages": [U, A, U]}, "no answer"),
        ({"messages": [U, {"role": "assistant", "content": " "}]}, "empty turn"),
        ({"messages": [U, {"role": "assistant", "content": None}]}, "empty turn"),
        ({"messages": [A, U, A]}, "turns out of order"),
        ({"messages": [U, U, A]}, "turns out of order"),
        ({"messages": [U, {"role": "tool", "content": "x"}, A]}, "turns out of order"),
        ({"messages": [{"role": "narrator", "content": "Once"}, U, A]}, "unknown role"),
        ({"prompt": "Q", "completion": "I am {{name}}."}, "unfilled template"),
        ({"prompt": "Q", "chosen": "same", "rejected": "same"}, "chosen equals rejected"),
        ({"title": "no format has this"}, "unknown row format"),
        ({"conversations": [{"from": "human", "value": "Q"},
                            {"from": "function_call", "value": "not json"},
                            {"from": "observation", "value": "x"}, {"from": "gpt", "value": "A"}]},
         "tool call is not JSON"),
        ({"messages": [U, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}] * 2},
                       {"role": "tool", "content": "one result"}, A]}, "calls without results"),
        ({"messages": [U, A], "tools": "{"}, "tools are not JSON"),
        ({"instruction": "Q", "history": [1, 2], "output": "A"}, "history is not a list of pairs"),
        ({"instruction": "Q", "history": [["Q"]], "output": "A"}, "history is not a list of pairs"),
        ({"instruction": "Q", "instances": 3}, "instances are not a list of objects"),
        ({"instruction": "Q", "instances": ["A"]}, "instances are not a list of objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused_with_its_reason(record, reason):
    with pytest.raises(BadRow) as refused:
        for row in formats.rows_of(record):
            validate(row)
    assert refused.value.reason == reason


def test_a_template_mark_inside_code_is_no_unfilled_template():
    one({"prompt": "Jinja?", "completion": "Write `{{ name }}` or\n```\n{{ user.name }}\n```"})


def test_call_ids_differ_within_a_conversation_and_repeat_between_runs():
    assert messages.call_id("f", {"x": 1}, 1) == messages.call_id("f", {"x": 1}, 1) == "CrZi1cNOi"
    assert len({messages.call_id("f", {}, n) for n in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("name", "rows", "bad"),
    [
        ("lf_alpaca_en_demo.json", 999, 0),
        ("lf_glaive_toolcall_en_demo.json", 300, 0),
        ("lf_dpo_en_demo.json", 300, 0),
        ("lf_kto_en_demo.json", 300, 3),  # two hold an unfilled {{template}}, one a <|user|>
        ("lf_identity.json", 91, 85),
        ("torchtune_stack_exchange_paired_tiny.json", 25, 0),
        ("axolotl_conversation.json", 1, 0),
        ("axolotl_conversation.missingturns.json", 1, 1),
    ],
)
def test_the_real_files_of_the_field_are_read_whole(samples, name, rows, bad):
    text = (samples / "instruct" / name).read_text(encoding="utf-8")
    records = json.loads(text)
    records = records if isinstance(records, list) else [records]
    read = refused = 0
    for record in records:
        try:
            for row in formats.rows_of({k: v for k, v in record.items() if k != "label"}):
                read += 1
                validate(row)
        except BadRow:
            refused += 1
    assert (read, refused) == (rows, bad)
