"""Keys that change what is learned are obeyed, or their row is refused; the others are counted."""

from __future__ import annotations

import json

import pytest

from corpus import formats
from corpus.judge import validate
from corpus.rows import BadRow, Row, Unwanted

U, A = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}


def one(record: dict) -> Row:
    (row,) = formats.rows_of(record)
    validate(row)
    return row


def refusal(record: dict) -> str:
    with pytest.raises(BadRow) as refused:
        one(record)
    return str(refused.value)


@pytest.mark.parametrize(
    ("mark", "value"),
    [("weight", 0), ("train", False), ("loss", "0"), ("masked", True), ("no_train", 1),
     ("ignore", True), ("supervised", False), ("include_in_loss", False), ("is_train", 0),
     ("mask_out", True)],
)  # fmt: skip
def test_a_turn_that_is_marked_as_not_to_be_learned_has_weight_0(mark, value):
    row = one({"messages": [U, A | {mark: value}, U, A]})
    assert [m.get("weight") for m in row.messages] == [None, 0, None, None]
    with pytest.raises(Unwanted, match="not to be learned"):
        one({"messages": [U, A | {mark: value}]})
    with pytest.raises(Unwanted, match="not to be learned"):
        one({"messages": [U, A], mark: value})


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (A | {"weight": 0.5}, "unknown weight: messages[].weight is '0.5'"),
        (A | {"train_detail": [{"begin": 0, "train": True}]}, "messages[].train_detail weighs"),
        (A | {"trains_no": 1, "final_loss": 0}, "messages[].final_loss may say what is learned"),
        (A | {"user_weight": 0.5}, "messages[].user_weight may say what is learned"),
        (A | {"images": ["a.png"]}, "messages[].images holds an image"),
        (A | {"content": [{"type": "image_url", "image_url": "x"}]}, "is of type image_url"),
        (A | {"content": [{"type": "text", "text": 3}]}, "not text"),
        (A | {"content": {"text": "x"}}, "not text: messages[].content is an object"),
        (A | {"reasoning_content": ["x"]}, "not text: messages[].reasoning_content is a list"),
    ],
)  # fmt: skip
def test_a_turn_that_cannot_be_obeyed_is_refused(turn, reason):
    assert reason in refusal({"messages": [U, turn]})


def test_a_user_turn_that_is_to_be_learned_or_that_reasons_is_refused():
    assert "only the assistant's" in refusal({"messages": [U | {"train": True}, A]})
    assert "turn 1 (user)" in refusal({"messages": [U | {"thinking": "a b"}, A]})
    assert one({"messages": [U | {"weight": 0}, A | {"weight": 1}]}).messages == [U, A]


PLAIN = {"prompt": "Why?", "completion": "Because."}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (PLAIN | {"images": ["a.png"]}, "not text: images"),
        (PLAIN | {"audio": {"path": "a.wav"}}, "not text: audio"),
        (PLAIN | {"picture": {"bytes": "iVBOR", "path": None}}, "not text: picture"),
        (PLAIN | {"shown": ["data:image/png;base64,iVBOR"]}, "not text: shown"),
        (PLAIN | {"file_name": "rooms/7.jpg"}, "not text: file_name"),
        (PLAIN | {"image_id": 7}, "not text: image_id"),
        ({"messages": [U | {"attachments": [{"type": "image", "url": "x"}]}, A]}, "attachments"),
        ({"messages": [U, A], "chat_template_kwargs": {"enable_thinking": False}},
         "a row's own template"),
        (PLAIN | {"tool_calls": [{"name": "f"}]}, "no place for tool_calls"),
        (PLAIN | {"label": 3}, "unknown label: label is 3"),
        (PLAIN | {"kto_tag": "-1"}, "unknown label"),
        (PLAIN | {"loss_mask": [0, 1]}, "unknown weight"),
        (PLAIN | {"labels": [-100, 5]}, "labels weighs tokens"),
        (PLAIN | {"assistant_masks": [0, 1]}, "unknown weight"),
        (PLAIN | {"train_on_inputs": True}, "only the assistant's turns are learned"),
        (PLAIN | {"history": False}, "history is not a list of pairs"),
        ({"messages": [U, A | {"tool_calls": True}]}, "a call is true or false"),
        ({"messages": "[{'role': 'user', 'content': 'Why?'}]"}, "written out, not as JSON"),
        (PLAIN | {"rejected": "No."}, "no pair: rejected"),
        ({"question": "Q?", "choices": ["a", "b"], "answer": "B"}, "multiple choice"),
        ({"question": "Q?", "options": {"A": "a"}, "answer": "A"}, "multiple choice"),
        ({"question": "Q?", "A": "a", "B": "b", "C": "c", "answer": "B"}, "A, B, C are not"),
        ({"question": "Q?", "opa": "a", "opb": "b", "answer": "b"}, "opa, opb are not"),
        ({"question": "Q?", "choice1": "a", "choice2": "b", "answer": "b"}, "multiple choice"),
        ({"question": "Q?", "answer": "{'text': array(['a'], dtype=object)}"}, "written out"),
        ({"question": "Q?", "answers": "['a', 'b']"}, "not text: answers has answers written"),
        ({"prompt": "Why?", "completion": "nan"}, "an answer is nan"),
        ({"prompt": "b'Why?'", "completion": "Because."}, "Python's writing of bytes"),
        ({"messages": "array([{'role': 'user', 'content': 'Why?'}], dtype=object)"}, "written out"),
        ({"question": "Q?", "answer": 2}, "not text: answer is a number"),
        ({"question": "Q?", "answer": {"span": 3}}, "object without text or value"),
        ({"instruction": "Q?", "output": ["a", "b"]}, "not text: output is a list"),
        ({"instruction": {"0": "Q?"}, "output": {"0": "A."}}, "not text: instruction is an object"),
        ({"messages": [U, A], "history": [["a", "b"]]}, "no place for history"),
        ({"messages": [{"role": "system", "content": "Be brief."}, U, A], "system": "Be long."},
         "two system messages"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_obeyed_is_refused(record, reason):
    assert reason in refusal(record)


def test_marks_that_change_nothing_are_obeyed_and_topics_are_counted():
    row = one(PLAIN | {"train_on_inputs": False, "labels": ["weather"], "ignore": False})
    assert row.messages == [U, A] and row.unused == ["labels"]


def test_nothing_is_what_null_and_nan_and_empty_lists_are():
    empty = {"input": float("nan"), "images": [], "rejected": None, "tools": [], "weight": None}
    row = one({"instruction": "Why?", "output": "Because."} | empty)
    assert row.messages == [U, A] and row.unused == []
    assert "empty turn" in refusal({"instruction": "Why?", "output": float("nan")})


@pytest.mark.parametrize("word", ["nan", "None", "<noinput>", "N/A"])
def test_a_word_for_no_input_is_none_and_its_key_is_counted(word):
    row = one({"instruction": "Why?", "input": word, "system": word, "output": "Because."})
    assert row.messages == [U, A] and row.passage == ""
    assert sorted(row.unused) == ["input", "system"]
    assert one({"prompt": "Is it None?", "completion": "None"}).messages[1]["content"] == "None"


def test_columns_and_file_names_of_other_meaning_are_counted():
    other = {"A": "x", "url": "https://a.b/c.jpg", "path": "src/a.py", "opening": "e4", "image": 0}
    row = one(PLAIN | other)
    assert sorted(row.unused) == sorted(other)


def test_answers_that_a_table_has_as_json_are_read():
    row = one({"question": "Where?", "answers": '{"text": ["Oslo", "in Oslo"]}'})
    assert row.messages[1]["content"] == "Oslo" and row.references == ["Oslo", "in Oslo"]
    assert one({"question": "Which?", "answers": '["a", "b"]'}).references == ["a", "b"]
    assert one({"question": "Print x", "answer": "['a']"}).messages[1]["content"] == "['a']"


def test_reasoning_stays_with_its_turn():
    row = one({"messages": [U, A | {"reasoning_content": "First this."}]})
    assert row.messages[1]["reasoning_content"] == "First this."
    row = one(PLAIN | {"thinking": "First this."})
    assert row.messages[1] == A | {"thinking": "First this."}
    assert one(PLAIN | {"reasoning": "on"}).unused == ["reasoning"]  # a setting, not a text


def test_every_other_key_is_counted_by_its_name():
    record = {"messages": [U | {"name": "Ann"}, A], "id": 7, "meta": {"a": 1}, "empty": ""}
    assert sorted(one(record).unused) == ["id", "messages[].name", "meta"]
    row = one({"question": "Q?", "answer": {"value": "A", "aliases": ["B"], "type": "x"}, "id": 1})
    assert row.messages[1]["content"] == "A" and row.references == ["A", "B"]
    assert sorted(row.unused) == ["answer.type", "answer[1:]", "id"]


@pytest.mark.parametrize(
    "answers",
    [["Oslo", "in Oslo"], [{"text": "Oslo"}, {"text": "in Oslo"}],
     {"text": ["Oslo", "in Oslo"], "answer_start": [0, 5]}],
)  # fmt: skip
def test_the_first_of_several_answers_is_learned(answers):
    row = one({"question": "Where?", "context": "A map.", "answers": answers})
    assert [m["content"] for m in row.messages] == ["Where?\n\nA map.", "Oslo"]
    assert row.references == ["Oslo", "in Oslo"] and row.passage == "A map."


def call(name: str, identity: str | None) -> dict:
    made = {"type": "function", "function": {"name": name, "arguments": {}}}
    return made | ({"id": identity} if identity else {})


def result(identity: str, content: str = "x") -> dict:
    return {"tool_call_id": identity, "content": content}


def talk(ids: list, results: list[dict]) -> dict:
    calls = [call(name, identity) for name, identity in zip("fg", ids, strict=True)]
    turns = [{"role": "assistant", "content": "", "tool_calls": calls}]
    return {"messages": [U, *turns, *({"role": "tool"} | result for result in results), A]}


@pytest.mark.parametrize(
    "record",
    [
        talk(["1", "2"], [{"tool_call_id": "2", "content": "of g"},
                          {"tool_call_id": "1", "content": "of f"}]),
        talk([None, None], [{"name": "g", "content": "of g"}, {"name": "f", "content": "of f"}]),
        talk([None, None], [{"content": "of f"}, {"content": "of g"}]),
        talk(["1", "2"], [{"call_id": "2", "content": "of g"},
                          {"call_id": "1", "content": "of f"}]),
        talk(["1", "2"], [{"id": "2", "content": "of g"}, {"id": "1", "content": "of f"}]),
        talk([1, 2], [{"tool_call_id": 2, "content": "of g"},
                      {"tool_call_id": 1, "content": "of f"}]),
        talk(["1", "2"], [{"id": "m7", "content": "of f"}, {"id": "m8", "content": "of g"}]),
    ],
)  # fmt: skip
def test_a_result_goes_to_the_call_that_it_names(record):
    results = [m for m in one(record).messages if m["role"] == "tool"]
    assert [(m["name"], m["content"]) for m in results] == [("f", "of f"), ("g", "of g")]


@pytest.mark.parametrize(
    "record",
    [
        talk(["1", "2"], [result("1"), result("3")]),
        talk(["1", "2"], [result("1"), result("1")]),
        talk(["1", "1"], [result("1"), result("1")]),
        talk([None, None], [result("1"), result("2")]),
    ],
)  # fmt: skip
def test_a_result_that_names_no_call_refuses_the_row(record):
    assert "tool_call_id" in refusal(record)


def test_a_result_under_the_name_of_another_tool_refuses_the_row():
    (_, asking, _, _, answer) = talk([None, None], [{"content": ""}] * 2)["messages"]
    asking["tool_calls"] = asking["tool_calls"][:1]
    other = {"role": "tool", "name": "h", "content": "of h"}
    assert "name 'h' names no call" in refusal({"messages": [U, asking, other, answer]})


def test_ids_that_mistral_takes_stay_and_others_are_made_anew():
    results = [result("2", "of g"), result("abcdef123", "of f")]
    kept = one(talk(["abcdef123", "2"], results))
    ids = [m["tool_calls"][0]["id"] for m in kept.messages if "tool_calls" in m]
    assert ids[0] == "abcdef123" and len(ids[1]) == 9


def test_a_tool_call_may_be_the_answer():
    turn = {"role": "assistant", "content": None, "tool_calls": [call("f", "1")]}
    assert "tool_calls" in one({"messages": [U, turn]}).messages[-1]


# --- preferences -------------------------------------------------------------------------------

WORSE = {"role": "assistant", "content": "No idea."}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Why?", "chosen": [U, A], "rejected": [U, WORSE], "messages": [U, A]},
        {"chosen": [U, A], "rejected": [U, WORSE], "messages": [U, A]},
        {"messages": [U, A], "chosen": "Because.", "rejected": "No idea."},
        {"messages": [U, A], "rejected_response": "No idea."},
        {"chosen": [U, A], "rejected": "No idea."},
        {"prompt": "Why?", "chosen": "Because.", "rejected": [U, WORSE]},
        {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [WORSE]},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
         "rejected": "\n\nHuman: Why?\n\nAssistant: No idea."},
        {"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "Because.", "rejected": "No idea."},
        {"chosen": json.dumps([U, A]), "rejected": json.dumps([U, WORSE])},
        {"prompt": json.dumps([U]), "chosen": "Because.", "rejected": json.dumps([WORSE])},
        {"prompt": "Why?", "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
         "rejected": "\n\nHuman: Why?\n\nAssistant: No idea."},
    ],
)  # fmt: skip
def test_every_form_of_a_pair_gives_its_common_prompt_once(record):
    row = one(record)
    pair = row.preference()
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([U], [A], [WORSE])
    assert row.unused == []


def test_a_prompt_that_both_answers_repeat_is_cut_off_and_a_short_one_stays():
    asked = "Why is the sky blue at noon?"
    pair = one({"prompt": asked, "chosen": f"{asked} Air.", "rejected": f"{asked}\nMagic."})
    assert pair.chosen[0]["content"] == "Air." and pair.rejected[0]["content"] == "Magic."
    kept = one({"prompt": "Hi", "chosen": "Hi there.", "rejected": "Hi you."})
    assert kept.chosen[0]["content"] == "Hi there."
    kept = one({"prompt": asked, "chosen": f"{asked} Air.", "rejected": "Magic."})
    assert kept.chosen[0]["content"].startswith(asked)


def test_a_talk_that_a_table_keeps_as_json_text_is_read():
    assert one({"messages": json.dumps([U, A])}).messages == [U, A]
    assert one({"prompt": json.dumps([U]), "completion": json.dumps([A])}).messages == [U, A]
    text = '[{"city": "Oslo"}]'  # JSON that is the answer stays as it is
    assert one({"prompt": "List it", "completion": text}).messages[1]["content"] == text


def test_a_longer_talk_is_shared_up_to_the_last_question():
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: {}"
    pair = one({"chosen": text.format("Because."), "rejected": text.format("No.")}).preference()
    assert [m["role"] for m in pair["prompt"]] == ["user", "assistant", "user"]
    assert pair["chosen"] == [A]


def test_the_system_message_of_a_pair_comes_first_and_its_tools_stay():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    record = {"prompt": "Why?", "chosen": [U, A], "rejected": [U, WORSE]}
    pair = one(record | {"system": "Be brief.", "tools": tools}).preference()
    assert pair["prompt"] == [SYSTEM, U] and pair["tools"] == tools


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": "Because.", "rejected": "No."}, "no prompt"),
        ({"chosen": [U, A], "rejected": [{"role": "user", "content": "Who?"}, WORSE]},
         "no common prompt"),
        ({"prompt": "Why?", "chosen": [U, A, U, A], "rejected": [U, A, {**U, "content": "?"}, A]},
         "no common prompt"),
        ({"messages": [U, {"role": "assistant", "content": "Else."}], "chosen": "Because.",
          "rejected": "No."}, "two conversations"),
        ({"prompt": "Why?", "chosen": [A | {"weight": 0}], "rejected": "No."}, "unknown weight"),
        ({"prompt": "Why?", "chosen": {"a": 1}, "rejected": "No."}, "unknown role"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused(record, reason):
    try:
        one(record)
    except (BadRow, Unwanted) as refused:
        assert reason in str(refused)
    else:
        raise AssertionError("the row was taken")
