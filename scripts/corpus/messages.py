"""Turns of OpenAI, ShareGPT and Anthropic as messages: one tool call a turn, with its result."""

from __future__ import annotations

import hashlib
import json
import re
import string
from typing import Any

from corpus import learning_keys
from corpus.fields import Fields, kind_of
from corpus.rows import BadRow, Message
from corpus.sources.readers import loads

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "ai": "assistant", "chatbot": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "observation": "tool", "function": "tool", "ipython": "tool",
    "tool_results": "tool", "function_response": "tool",
}  # fmt: skip
_ID = string.digits + string.ascii_letters
_CALL_IDS = ("tool_call_id", "call_id", "toolCallId", "tool_use_id")  # how a result names its call
_NINE = re.compile(r"[0-9A-Za-z]{9}")
# JSON, or what Python prints: [{'role': 'user', …
_TURNS_AS_TEXT = re.compile(r"""\s*(?:array\()?\[\s*\{\s*["'](?:role|from|content|value)["']\s*:""")


def call_id(*parts: Any) -> str:
    """Nine letters and digits, as Mistral's template demands; the same for the same parts."""
    number = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")
    return "".join(_ID[number // len(_ID) ** i % len(_ID)] for i in range(9))


def tool_call(name: str, arguments: dict, *parts: Any) -> Message:
    """An assistant message that calls one tool. `parts` make its id differ from its neighbours'."""
    function = {"name": name, "arguments": arguments}
    one = {"id": call_id(name, arguments, *parts), "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [one]}


def tools_of(value: Any) -> list[dict] | None:
    """The tools of a row, from a list or its JSON text, each as {"type", "function"}."""
    if isinstance(value, str):
        try:
            value = loads(value) if value.strip() else None
        except json.JSONDecodeError:
            raise BadRow("tools are not JSON", value[:60]) from None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
        raise BadRow("tools are not a list of objects")
    _refuse_nan(value, "tools")
    return [t if "function" in t else {"type": "function", "function": _function(t)} for t in value]


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as OpenAI's function: Anthropic and MCP call its parameters input_schema."""
    names = {"input_schema": "parameters", "inputSchema": "parameters"}
    if "parameters" in tool or sum(name in tool for name in names) != 1:
        return tool
    return {names.get(key, key): value for key, value in tool.items()}


def _refuse_nan(value: Any, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise BadRow("not JSON", f"NaN or infinity in {what}") from None


def written_out(value: Any, key: str) -> Any:
    """Turns that a table has as JSON text, as a list; any other value as it is. Raises BadRow."""
    if not isinstance(value, str) or not _TURNS_AS_TEXT.match(value):
        return value
    try:
        return loads(value)
    except json.JSONDecodeError:
        raise BadRow("not text", f"{key} is a list of turns written out, not as JSON") from None


def messages_of(turns: Any, record: Fields, key: str = "messages") -> list[Message]:
    """The turns under `key` of a record as messages; keys that are not used count in `record`."""
    turns = [] if turns is None else written_out(turns, key)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("no turns", f"{key} is not a list of messages")
    result = []
    for place, turn in enumerate(turns, 1):
        fields = Fields(turn, f"{key}[].")
        result.append(_message(fields, place))
        record.keep_unused(fields)
    return _one_call_a_turn(result, record, key)


def _message(turn: Fields, place: int) -> Message:
    """One turn, its tool calls still as they were written, its result's id under tool_call_id."""
    name = turn.take("role", "from")
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown role", f"turn {place} is from {str(name)[:40]!r}")
    learning_keys.refuse(turn)
    content = turn.text("content", "value")
    calls = turn.take("tool_calls", "function_call")
    if calls is not None and not isinstance(calls, list | dict):
        raise BadRow("tool call without name", f"turn {place}: a call is {kind_of(calls)}")
    if role == "call":
        calls, content = _json(content, place), ""
    message: Message = {"role": "assistant" if calls else role, "content": content}
    if calls:
        message["tool_calls"] = calls if isinstance(calls, list) else [calls]
    if role == "tool":
        named = {"name": turn.take("name"), "tool_call_id": _id(turn.take(*_CALL_IDS)),
                 "id": _id(turn.peek("id"))}  # fmt: skip
        message |= {key: value for key, value in named.items() if value is not None}
    _mark(message, turn, place)
    return message


def _id(value: Any) -> Any:
    """An id as text: some write whole numbers."""
    return str(value) if type(value) is int else value


def _mark(message: Message, turn: Fields, place: int) -> None:
    """Keep a turn's reasoning, and `weight: 0` where it is not to be learned. Raises BadRow."""
    assistant = message["role"] == "assistant"
    marked = any(key in turn for key in (*learning_keys.MARKS, *learning_keys.MASKS))
    learned = learning_keys.learned(turn)
    if marked and learned and not assistant:
        raise BadRow("unknown weight", f"turn {place} ({message['role']}) is marked to be learned; "
                     "only the assistant's are")  # fmt: skip
    if assistant and not learned:
        message["weight"] = 0
    for key in learning_keys.REASONING:
        if key in turn:
            text = turn.text(key)
            if not assistant:
                raise BadRow("reasoning of another", f"turn {place} ({message['role']}) has {key}")
            if text.strip():
                message[key] = text


def _json(text: str, place: int) -> Any:
    try:
        return loads(text)
    except json.JSONDecodeError:
        raise BadRow("tool call is not JSON", f"turn {place}: {text[:60]}") from None


def _one_call_a_turn(messages: list[Message], record: Fields, key: str) -> list[Message]:
    """Two calls with two results become call, result, call, result: Llama 3.1 wants that.

    Calls at the end, which have no results yet, stay together.
    """
    result: list[Message] = []
    ids: set[str] = set()
    i = 0
    while i < len(messages):
        message = messages[i]
        i += 1
        if "tool_calls" not in message:
            result.append(message)
            continue
        answers = []
        while i < len(messages) and messages[i]["role"] == "tool":
            answers.append(messages[i])
            i += 1
        calls = [_normal_call(call, len(result) + n, ids, record, key)
                 for n, call in enumerate(message["tool_calls"])]  # fmt: skip
        if not answers and i == len(messages):
            result.append(message | {"tool_calls": [call for call, _ in calls]})
            continue
        for n, (call, own) in enumerate(zip(calls, _paired(calls, answers), strict=True)):
            result.append(message | {"tool_calls": [call[0]]})
            if n:
                result[-1]["content"] = ""
                _without_reasoning(result[-1])
            result += [{"role": "tool", "name": call[0]["function"]["name"],
                        "tool_call_id": call[0]["id"], "content": answer["content"]}
                       for answer in own]  # fmt: skip
    return result


def _without_reasoning(message: Message) -> None:
    for key in learning_keys.REASONING:
        message.pop(key, None)


def _paired(calls: list[tuple[dict, str | None]], answers: list[Message]) -> list[list[Message]]:
    """For each call its results: by tool_call_id, else by name, else in order. Raises BadRow."""
    if len(calls) > 1 and len(answers) != len(calls):
        raise BadRow("calls without results", f"{len(calls)} calls, {len(answers)} results")
    given = [identity for _, identity in calls]
    own = [answer.get("id") for answer in answers]  # the call's id, or the message's own
    named = [answer.get("tool_call_id") or (i if i in given else None)
             for i, answer in zip(own, answers, strict=True)]  # fmt: skip
    functions = [call["function"]["name"] for call, _ in calls]
    names = [answer.get("name") for answer in answers]
    if all(named) and all(given):
        places = _places(given, named, "tool_call_id")
    elif any(named) and len(calls) > 1:
        raise BadRow("result without its call", "calls or results without tool_call_id")
    else:
        if other := [name for name in names if name and name not in functions]:
            detail = f"name {str(other[0])[:40]!r} names no call of the turn before"
            raise BadRow("result without its call", detail)
        known = all(names) and len(set(functions)) == len(functions)
        ordered = list(range(len(answers))) if len(calls) > 1 else [0] * len(answers)
        places = _places(functions, names, "name") if known and len(calls) > 1 else ordered
    result: list[list[Message]] = [[] for _ in calls]
    for place, answer in zip(places, answers, strict=True):
        result[place].append(answer)
    return result


def _places(calls: list, results: list, what: str) -> list[int]:
    """For each result the place of the call that it names."""
    for name in results:
        if calls.count(name) != 1:
            detail = f"{what} {str(name)[:40]!r} names no single call of the turn before"
            raise BadRow("result without its call", detail)
    if len(calls) > 1 and len(set(results)) != len(results):
        raise BadRow("calls without results", f"two results have one {what}")
    return [calls.index(name) for name in results]


def _normal_call(
    call: Any, place: int, ids: set[str], record: Fields, key: str
) -> tuple[dict, str | None]:
    """(call as templates want it, the id that it was written with). `ids`: those in use."""
    if not isinstance(call, dict):
        raise BadRow("tool call without name", f"a call is {kind_of(call)}")
    outer = Fields(call, f"{key}[].tool_calls[].")
    inner = call.get("function")
    function = outer
    if isinstance(inner, dict):
        outer.take("function")
        function = Fields(inner, f"{key}[].tool_calls[].function.")
    name = function.take("name")
    if not isinstance(name, str):
        raise BadRow("tool call without name", f"the name is {kind_of(name)}")
    arguments = function.take("arguments", "parameters")
    if isinstance(arguments, str):
        arguments = _json(arguments, place)
    if not isinstance(arguments, dict | None):
        raise BadRow("tool arguments are not an object", f"{name}: {kind_of(arguments)}")
    _refuse_nan(arguments, f"the arguments of {name}")
    given = _id(outer.take("id", "call_id", "toolCallId"))
    outer.take("type"), outer.take("index")
    for fields in {id(f): f for f in (outer, function)}.values():
        record.inner += fields.unused()
    (made,) = tool_call(name, arguments or {}, place)["tool_calls"]
    given = given if isinstance(given, str) else None
    if given and _NINE.fullmatch(given) and given not in ids:
        made["id"] = given
    ids.add(made["id"])
    return made, given
