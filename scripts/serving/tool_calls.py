"""Tool calls in and out: OpenAI's form <-> what chat templates take and models write.

Models write a call as JSON, each family with its own marks around it: Llama {"name", "parameters"},
Mistral [TOOL_CALLS] [{"name", "arguments"}], Qwen and Hermes <tool_call>{…}</tool_call>. Special
tokens are gone when the text gets here; what is left is recognised by its JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from typing import Any

from kit import json_files

MARKS = re.compile(r"</?tool_call>|[,;\s]")
_OPENS = ("{", "[", "<tool_call>")
_ALPHABET = string.ascii_letters + string.digits


def new_id() -> str:
    """Nine letters and digits: Mistral's templates take nothing else, the others take anything."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


def for_template(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as chat templates want them: arguments as objects, ids of nine characters.

    ValueError with the place of arguments that are no JSON object.
    """
    converted = []
    for i, message in enumerate(messages):
        message = dict(message)
        if message.get("tool_call_id"):
            message["tool_call_id"] = _nine(message["tool_call_id"])
        if message.get("tool_calls"):
            message["tool_calls"] = [
                _call(call, f"messages[{i}].tool_calls[{j}].function.arguments")
                for j, call in enumerate(message["tool_calls"])
            ]
            message["content"] = message.get("content") or ""
        converted.append(message)
    return converted


def _call(call: dict[str, Any], place: str) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    try:
        arguments = json_files.shallow(arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(place)
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"id": _nine(call["id"]), "type": "function", "function": function}


def _nine(given: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]{9}", given):
        return given
    return hashlib.sha256(given.encode()).hexdigest()[:9]


def may_begin(text: str, since: int = 0) -> int | None:
    """Where in `text` a call may have begun (what comes before is content), None for nowhere.

    `since`: the text before that character was looked at already.
    """
    head = text.lstrip()
    if not head or any(head.startswith(m) or m.startswith(head) for m in _OPENS):
        return 0
    mark = _OPENS[2]
    places = (i for i in range(since, len(text)) if text[i] == "<")
    return next((i for i in places if mark.startswith(text[i : i + len(mark)])), None)


def parse(text: str, tools: list[dict[str, Any]] | None) -> tuple[str | None, list[dict[str, Any]]]:
    """(content, tool calls in OpenAI's form) of an answer; (text, []) where it holds no call.

    A call counts only if it names one of `tools`, and if nothing but marks is around it.
    """
    known = {tool["function"]["name"] for tool in tools or ()}
    start = may_begin(text)
    if not known or start is None:
        return text, []
    calls, rest, position = [], "", start
    while position < len(text):
        if text[position] in "{[":
            try:
                value, position = json.JSONDecoder().raw_decode(text, position)
                json_files.check_size(value)
            except (ValueError, RecursionError):  # a model that repeats one bracket nests deep
                return text, []
            calls += value if isinstance(value, list) else [value]
        else:
            rest += text[position]
            position += 1
    parsed = [_read(call, known) for call in calls]
    if MARKS.sub("", rest) or not parsed or None in parsed:
        return text, []
    return text[:start].strip() or None, parsed


def _read(call: Any, known: set[str]) -> dict[str, Any] | None:
    """One call that a model wrote, in OpenAI's form; None if it is none."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json_files.shallow(arguments)
        except ValueError:
            return None
    if call["name"] not in known or not isinstance(arguments, dict):
        return None
    function = {"name": call["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": new_id(), "type": "function", "function": function}
