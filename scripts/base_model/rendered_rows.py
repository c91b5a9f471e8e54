"""A rendered conversation against its row: what the chat template leaves out or writes twice."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from base_model import chat_template

REASONING = ("reasoning_content", "reasoning", "thinking")  # as templates name it
LONG = 16  # characters from which a text that occurs twice was not meant twice
_OPENED = re.compile(r"[<\[]\|?(?:think\w*|thought|reason\w*)\|?[>\]]\s*$", re.I)
_CLOSED = re.compile(r"[<\[]\|?(think\w*|thought|reason\w*)\|?[>\]]\s*[<\[]/\1\|?[>\]]\s*$", re.I)
_INDENTED = re.compile(r"\n*(?:\t| {2,})\s*\S")


class Mismatch(ValueError):
    """An answer's text does not continue the prompt that it will get in use."""

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.remedy = remedy


def mismatch(prompt: str, answer: dict[str, Any]) -> Mismatch:
    """Why an answer's text does not begin with its prompt, and the way out."""
    if _OPENED.search(prompt):
        closed = (
            "train with a template that opens none: python scripts/verify_model.py --closed-think "
            "FILE writes it, model.chat_template names it"
        )
        reasoned = "</think>" in str(answer.get("content")) or any(map(answer.get, REASONING))
        text = "the chat template opens a <think> in the generation prompt, and "
        if reasoned:
            return Mismatch(f"{text}leaves out the reasoning that this answer has", closed)
        return Mismatch(
            f"{text}this answer does not begin with it: in use the model would have to think first",
            f"give the answers their reasoning (reasoning_content), or {closed}",
        )
    if _CLOSED.search(prompt):
        return Mismatch(
            "the chat template closes the thinking in the generation prompt, and this answer has "
            "its own: in use the model would not think",
            "leave reasoning out of the rows, or use a template that lets the model think "
            "(model.chat_template)",
        )
    return Mismatch(
        "the chat template rewrites earlier turns",
        "correct or delete that row, or use a template that only appends (model.chat_template)",
    )


def way_out(tokenizer, messages, tools, error: Exception) -> str:
    """What helps where a template refuses a row: another row, or another template."""
    from jinja2 import TemplateRuntimeError

    if isinstance(error, (TemplateRuntimeError, TypeError)):  # not its raise_exception
        return "the template cannot write such a row: use another one (model.chat_template)"
    if messages[0].get("role") == "system":
        with contextlib.suppress(Exception):  # refused for another reason
            chat_template.render(tokenizer, messages[1:], tools)
            return (
                "put the system text at the head of the first question, or use a template that "
                "takes it (model.chat_template)"
            )
    return "correct or delete that row; python scripts/data_prep.py checks rows"


def closed_think(template: str) -> str | None:
    """The template without the <think> that its generation prompt opens; None where it opens none.

    What is written for an answer stays as it is.
    """
    start = template.rfind("add_generation_prompt")
    prompt = template[max(start, 0) :]
    closed = re.sub(r"<think>(?:\\n)*(?=['\"])", "", prompt)
    return template[:start] + closed if start >= 0 and closed != prompt else None


def faults(
    text: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, trained: int = 0
) -> list[str]:
    """What of a conversation the rendered text lacks or has twice, in words.

    trained: the first message whose answer is trained; earlier answers may be shortened.
    """
    judged = [m for i, m in enumerate(messages) if m.get("role") != "assistant" or i >= trained]
    made = [fault for message in judged for fault in _faults_of(text, message)]
    made += _fewer(text, judged)
    for tool in tools or ():
        made += _faults_of_tool(text, tool)
    made += _twice(text, messages, tools)
    return list(dict.fromkeys(made))


def _faults_of(text: str, message: dict[str, Any]) -> Iterator[str]:
    role = str(message.get("role"))
    for content in _texts(message.get("content")):
        if _has(text, content):
            if role == "assistant" and _loses_indentation(text, content):
                yield "leaves out the indentation that answers begin with"
            continue
        kept = content.rpartition("</think>")[2]
        if role == "assistant" and kept != content and _has(text, kept):
            yield "leaves out what stands before </think> in answers"
        elif role == "assistant" and message.get("tool_calls"):
            yield "leaves out the text beside a tool call"
        else:
            yield f"leaves out text of the {role}"
    if not all(_has(text, r) for key in REASONING for r in _texts(message.get(key))):
        yield "leaves out reasoning"
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        if not _has(text, str(function.get("name", ""))):
            yield "leaves out tool calls"
        elif not _has_values(text, _parsed(function.get("arguments"))):
            yield "leaves out arguments of tool calls"


def _loses_indentation(text: str, content: str) -> bool:
    """Whether code that goes on from the question begins at the margin in the text."""
    lines = content.strip("\r\n").rstrip()
    return _INDENTED.match(content) is not None and lines not in text


def _faults_of_tool(text: str, tool: Any) -> Iterator[str]:
    """What a tool's definition says and the text does not."""
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    if not isinstance(function, dict):
        return
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not _has(text, str(function.get("name", ""))):
        yield "leaves out tools"
    elif not _has_values(text, function.get("description")):
        yield "leaves out descriptions of tools"
    elif not _has_values(text, list(properties) if isinstance(properties, dict) else None):
        yield "leaves out parameters of tools"


def _parsed(arguments: Any) -> Any:
    """A call's arguments, which may be JSON in a string."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _has_values(text: str, value: Any) -> bool:
    """Whether the text holds each word and whole number of a value.

    Words, because templates quote the same value in many ways (JSON, XML, Python).
    """
    if isinstance(value, dict):
        return all(_has_values(text, inner) for pair in value.items() for inner in pair)
    if isinstance(value, list):
        return all(_has_values(text, inner) for inner in value)
    if isinstance(value, str):
        plain = text.replace("\\\\", "\\")  # JSON within JSON
        return all(_has(text, w) or _has(plain, w) for w in re.findall(r"\w+", value))
    return not isinstance(value, int) or isinstance(value, bool) or str(value) in text


def _fewer(text: str, messages: list[dict[str, Any]]) -> Iterator[str]:
    """Texts that stand in several messages of the row and in the text less often."""
    pairs = [(m.get("role"), c.strip()) for m in messages for c in _texts(m.get("content"))]
    often = Counter(content for _, content in pairs if content)
    for role, content in pairs:
        forms = [content, *_escaped(content)]
        if often[content] > 1 and 0 < max(text.count(f) for f in forms) < often[content]:
            yield f"leaves out repeated text of the {role}"


def _texts(content: Any) -> list[str]:
    """The texts of a message's content: itself, or its parts of text."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str)]


def _has(text: str, content: str) -> bool:
    """Whether the text holds the content, as it is or as JSON writes it."""
    content = content.strip()
    return content in text or any(form in text for form in _escaped(content))


def _escaped(content: str) -> list[str]:
    """The content as JSON writes it, with and without letters beyond ASCII."""
    return [json.dumps(content, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]


def _twice(text: str, messages, tools) -> Iterator[str]:
    row = [part for m in messages for key in ("content", *REASONING) for part in _texts(m.get(key))]
    row += [json.dumps(tools or [])] + [json.dumps(m.get("tool_calls") or []) for m in messages]
    for message in messages:
        for content in _texts(message.get("content")):
            content = content.strip()
            if len(content) < LONG:
                continue
            if text.count(content) > sum(part.count(content) for part in row):
                yield f"writes text of the {message.get('role')} twice"
