"""Every row format of the field, read into Row: see `FORMATS` for the keys that tell them apart.

messages (OpenAI, TRL) · ShareGPT with tool calls · prompt/completion · Alpaca · self-instruct ·
question/answer · preference (DPO, HH, paired) · KTO (`label`).
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Callable, Iterator
from typing import Any

from corpus.rows import BadRow, Message, Row
from corpus.sources.readers import loads

Record = dict[str, Any]
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "observation": "tool", "function": "tool", "ipython": "tool",
    "tool_results": "tool", "function_response": "tool",
}  # fmt: skip
_ID = string.digits + string.ascii_letters

# The Alpaca wrapping that some data sets have baked into their prompts
_ALPACA = re.compile(
    r"^Below is an instruction.*?### Instruction:\s*(?P<instruction>.*?)"
    r"(?:\s*### Input:\s*(?P<input>.*?))?\s*### Response:\s*$",
    re.S,
)


def text_of(value: Any) -> str:
    """A text field: '' for null; a list of OpenAI content parts is joined."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(p, dict) for p in value):
        if any(p.get("type", "text") != "text" for p in value):
            raise BadRow("not text", "a content part is an image or a sound")
        return "".join(str(p.get("text", "")) for p in value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


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
    return [t if "function" in t else {"type": "function", "function": t} for t in value]


def messages_of(turns: Any) -> list[Message]:
    """OpenAI or ShareGPT turns as messages, with one tool call a turn."""
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise BadRow("no turns", "the conversation is not a list of messages")
    result: list[Message] = []
    for i, turn in enumerate(turns):
        name = turn.get("role", turn.get("from"))
        role = ROLES.get(str(name).lower())
        if role is None:
            raise BadRow("unknown role", f"turn {i + 1} is from {name!r}")
        content = text_of(turn.get("content", turn.get("value")))
        calls = turn.get("tool_calls") or (
            [turn["function_call"]] if turn.get("function_call") else None
        )
        if role == "call":
            calls, content = _json(content, i), ""
        if calls:
            calls = calls if isinstance(calls, list) else [calls]
            result.append({"role": "assistant", "content": content, "tool_calls": calls})
        else:
            result.append({"role": role, "content": content})
    return _one_call_a_turn(result)


def _json(text: str, turn: int) -> Any:
    try:
        return loads(text)
    except json.JSONDecodeError:
        raise BadRow("tool call is not JSON", f"turn {turn + 1}: {text[:60]}") from None


def _one_call_a_turn(messages: list[Message]) -> list[Message]:
    """Two calls with two results become call, result, call, result: Llama 3.1 wants that."""
    result: list[Message] = []
    i = 0
    while i < len(messages):
        message = messages[i]
        i += 1
        calls = message.get("tool_calls")
        if not calls:
            result.append(message)
            continue
        answers = []
        while i < len(messages) and messages[i]["role"] == "tool":
            answers.append(messages[i])
            i += 1
        if len(calls) > 1 and len(answers) != len(calls):
            raise BadRow("calls without results", f"{len(calls)} calls, {len(answers)} results")
        for n, call in enumerate(calls):
            one = _normal_call(call, len(result))
            result.append(one | {"content": message["content"] if n == 0 else ""})
            for answer in answers[n : n + 1] if len(calls) > 1 else answers:
                function = one["tool_calls"][0]
                result.append({"role": "tool", "name": function["function"]["name"],
                               "tool_call_id": function["id"],
                               "content": answer["content"]})  # fmt: skip
    return result


def _normal_call(call: Any, turn: int) -> Message:
    function = call.get("function", call) if isinstance(call, dict) else {}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("tool call without name", text_of(call)[:60])
    arguments = function.get("arguments", function.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = _json(arguments, turn)
    if not isinstance(arguments, dict):
        raise BadRow("tool arguments are not an object", str(arguments)[:60])
    return tool_call(function["name"], arguments, turn)


def _ask(prompt: str, answer: str, system: str = "") -> list[Message]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def unwrap_alpaca(prompt: str) -> str:
    """The instruction (and input) inside a baked-in Alpaca template; other text as it is."""
    found = _ALPACA.match(prompt)
    return _join(found["instruction"], found["input"]) if found else prompt


def _join(instruction: str, extra: str | None) -> str:
    return f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction


# --- the formats ------------------------------------------------------------------------------


def _from_messages(r: Record) -> Iterator[Row]:
    turns = r.get("messages", r.get("conversations", r.get("conversation")))
    messages = messages_of(turns)
    if r.get("system") and messages[:1] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": text_of(r["system"])})
    yield Row(messages, tools_of(r.get("tools")))


def _from_prompt(r: Record) -> Iterator[Row]:
    answer = next(r[k] for k in ("completion", "response", "answer", "output") if k in r)
    if isinstance(r["prompt"], list):
        answer = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
        yield Row(messages_of(r["prompt"] + answer), tools_of(r.get("tools")))
    else:
        yield Row(
            _ask(unwrap_alpaca(text_of(r["prompt"])), text_of(answer), text_of(r.get("system")))
        )


def _from_alpaca(r: Record) -> Iterator[Row]:
    prompt = _join(text_of(r["instruction"]), text_of(r.get("input", r.get("context"))))
    answer = next(r[k] for k in ("output", "response", "completion", "answer") if k in r)
    messages = _ask(prompt, text_of(answer), text_of(r.get("system")))
    for before in reversed(_history(r.get("history") or [])):
        at = int(messages[0]["role"] == "system")
        messages[at:at] = _ask(text_of(before[0]), text_of(before[1]))
    yield Row(messages)


def _history(value: Any) -> list:
    """LLaMA-Factory's earlier turns: [[question, answer], …]."""
    if isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value):
        return value
    raise BadRow("history is not a list of pairs", str(value)[:60])


def _from_self_instruct(r: Record) -> Iterator[Row]:
    instances = r["instances"]
    if not isinstance(instances, list) or not all(isinstance(i, dict) for i in instances):
        raise BadRow("instances are not a list of objects", str(instances)[:60])
    for instance in instances:
        prompt = _join(text_of(r["instruction"]), text_of(instance.get("input")))
        yield Row(_ask(prompt, text_of(instance.get("output"))))


def _from_question(r: Record) -> Iterator[Row]:
    context = text_of(r.get("context", r.get("input")))
    yield Row(_ask(_join(text_of(r["question"]), context), text_of(r["answer"])))


def _from_preference(r: Record) -> Iterator[Row]:
    better, worse = _answers(r)
    if isinstance(r.get("prompt"), list):
        prompt = messages_of(r["prompt"])
    elif "conversations" in r or "messages" in r:
        prompt = messages_of(r.get("conversations", r.get("messages")))
    elif any(k in r for k in ("prompt", "question", "instruction")):
        text = next(text_of(r[k]) for k in ("prompt", "question", "instruction") if k in r)
        prompt = [{"role": "user", "content": _join(unwrap_alpaca(text), text_of(r.get("input")))}]
        if r.get("system"):
            prompt.insert(0, {"role": "system", "content": text_of(r["system"])})
    else:
        prompt = []
    shared: list[Message] = []
    while len(better) > 1 and len(worse) > 1 and better[0] == worse[0]:
        shared.append(better[0])  # HH, UltraFeedback: both answers hold the whole conversation
        better, worse = better[1:], worse[1:]
    prompt = shared if shared[: len(prompt)] == prompt else prompt + shared
    row = Row(prompt + better, tools_of(r.get("tools")))
    row.rejected, row.prompt_turns = worse, len(prompt)
    yield row


def _answers(r: Record) -> tuple[list[Message], list[Message]]:
    pair = (
        ("chosen", "rejected") if {"chosen", "rejected"} <= set(r) else ("response_j", "response_k")
    )
    result = []
    for key in pair:
        value = r[key]
        if isinstance(value, str):
            value = [{"role": "assistant", "content": value}]
        result.append(messages_of(value if isinstance(value, list) else [value]))
        if not result[-1]:
            raise BadRow("no answer", f"{key} is empty")
    return result[0], result[1]


FORMATS: list[tuple[str, Callable[[Record], bool], Callable[[Record], Iterator[Row]]]] = [
    ("preference", lambda r: {"chosen", "rejected"} <= set(r), _from_preference),
    ("paired", lambda r: {"question", "response_j", "response_k"} <= set(r), _from_preference),
    ("messages", lambda r: any(k in r for k in ("messages", "conversations", "conversation")),
     _from_messages),
    ("prompt/completion", lambda r: "prompt" in r and any(
        k in r for k in ("completion", "response", "answer", "output")), _from_prompt),
    ("self-instruct", lambda r: {"instruction", "instances"} <= set(r), _from_self_instruct),
    ("Alpaca", lambda r: "instruction" in r and any(
        k in r for k in ("output", "response", "completion", "answer")), _from_alpaca),
    ("question/answer", lambda r: {"question", "answer"} <= set(r), _from_question),
]  # fmt: skip


def format_of(record: Record) -> str | None:
    """The name of the record's format, or None where its keys are of none."""
    return next((name for name, fits, _ in FORMATS if fits(record)), None)


def rows_of(record: Record) -> tuple[list[Row], bool]:
    """The rows of one record, and whether they are wanted (KTO's `label` false or 0 is not)."""
    for _, fits, convert in FORMATS:
        if fits(record):
            label = str(record.get("label")).strip().lower()  # of a table: "False"
            return list(convert(record)), label not in ("false", "0")
    keys = ", ".join(map(str, list(record)[:8]))
    raise BadRow("unknown row format", f"keys {keys}")
