"""Tool calls: what models of several families write, and what templates take."""

import json

import pytest

from serving import tool_calls

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "add")]
CALL = '{"name": "get_weather", "arguments": {"city": "Köln"}}'


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (CALL, None),
        (CALL.replace("arguments", "parameters"), None),  # Llama
        (f" [{CALL}]", None),  # Mistral, [TOOL_CALLS] taken off
        (f"<tool_call>\n{CALL}\n</tool_call>", None),  # Qwen, Hermes
        (f"I look. <tool_call>\n{CALL}\n</tool_call>", "I look."),
        (f'[{{"id": "x", "type": "function", "function": {CALL}}}]', None),
    ],
)
def test_each_familys_way_of_calling_is_read(text, content):
    spoken, calls = tool_calls.parse(text, TOOLS)
    assert spoken == content and len(calls) == 1
    assert calls[0]["type"] == "function" and len(calls[0]["id"]) == 9
    assert calls[0]["function"]["name"] == "get_weather"
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Köln"}


def test_several_calls_are_read():
    add = '{"name": "add", "arguments": "{\\"a\\": 1}"}'
    for text in (f"[{CALL}, {add}]", f"{CALL}; {add}", f"<tool_call>{CALL}</tool_call>\n{add}"):
        names = [call["function"]["name"] for call in tool_calls.parse(text, TOOLS)[1]]
        assert names == ["get_weather", "add"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is cold.",
        "[1, 2]",
        "a < b",
        CALL[:-1],
        f"{CALL} is how I call it",
        CALL.replace("get_weather", "rm"),
        CALL.replace('{"city": "Köln"}', "7"),
        '{"answer": 42}',
        "<tool_call>nothing</tool_call>",
        "[" * 5000,
        '{"a":' * 5000,
        '{"name": "add", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001,
        json.dumps({"name": "add", "arguments": "[" * 5000}),
        json.dumps({"name": "add", "arguments": '{"a":' * 5000 + "1" + "}" * 5000}),
    ],
)
def test_what_is_no_call_of_an_offered_tool_stays_text(text):
    assert tool_calls.parse(text, TOOLS) == (text, [])


def test_without_tools_json_stays_text():
    assert tool_calls.parse(CALL, None) == (CALL, [])


@pytest.mark.parametrize(
    ("text", "place"),
    [("", 0), (" \n", 0), (" {", 0), ("<tool", 0), ("Hello", None), ("Hello <", 6),
     ("a < b <tool_call>{", 6), ("a < b", None)],
)  # fmt: skip
def test_only_what_may_become_a_call_is_held_back(text, place):
    assert tool_calls.may_begin(text) == place


def test_templates_get_arguments_as_objects_and_ids_of_nine_characters():
    call = {"id": "call_abc", "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1}'}}  # fmt: skip
    made = tool_calls.for_template(
        [{"role": "assistant", "tool_calls": [call]},
         {"role": "tool", "tool_call_id": "call_abc", "content": "1"}]
    )  # fmt: skip
    given = made[0]["tool_calls"][0]
    assert given["function"]["arguments"] == {"a": 1} and made[0]["content"] == ""
    assert given["id"] == made[1]["tool_call_id"] and given["id"].isalnum()
    assert len(given["id"]) == 9


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"'])
def test_arguments_that_are_no_object_are_named_by_their_place(arguments):
    call = {"id": "1", "function": {"name": "add", "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(ValueError, match=r"messages\[1\].tool_calls\[0\].function.arguments"):
        tool_calls.for_template(messages)


@pytest.mark.parametrize("arguments", ["[" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 5000])
def test_arguments_that_python_cannot_read_are_refused_by_their_place(arguments):
    call = {"id": "call00001", "function": {"name": "add", "arguments": arguments}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(ValueError, match=r"messages\[0\].tool_calls\[0\].function.arguments"):
        tool_calls.for_template(messages)
