"""A rendered conversation against its row: what the chat template leaves out or writes twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

REASONING = ("reasoning_content", "reasoning", "thinking")
LONG = 32  # characters from which a text that occurs twice was not meant twice
_OPENED = re.compile(r"[<\[]\|?(?:think\w*|thought|reason\w*)\|?[>\]]\s*$", re.I)


class Mismatch(ValueError):
    """An answer's text does not continue the prompt that it will get in use."""

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.remedy = remedy


def mismatch(prompt: str) -> Mismatch:
    """Why an answer's text does not begin with its prompt, and the way out."""
    if _OPENED.search(prompt):
        return Mismatch(
            "the chat template opens a <think> in the generation prompt, and this answer does not "
            "begin with it: in use the model would have to think first",
            "give the answers their reasoning (reasoning_content), or train with a template that "
            "opens none: python scripts/verify_model.py --closed-think FILE writes it, "
            "model.chat_template names it",
        )
    return Mismatch(
        "the chat template rewrites earlier turns",
        "correct or delete that row, or use a template that only appends (model.chat_template)",
    )


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
    made: list[str] = []
    for i, message in enumerate(messages):
        if message.get("role") == "assistant" and i < trained:
            continue
        made += _faults_of(text, message)
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if isinstance(function, dict) and not _has(text, str(function.get("name", ""))):
            made.append("leaves out tools")
    made += _twice(text, messages, tools)
    return list(dict.fromkeys(made))


def _faults_of(text: str, message: dict[str, Any]) -> Iterator[str]:
    role = str(message.get("role"))
    for content in _texts(message.get("content")):
        if _has(text, content):
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


def _texts(content: Any) -> list[str]:
    """The texts of a message's content: itself, or its parts of text."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str)]


def _has(text: str, content: str) -> bool:
    """Whether the text holds the content, as it is or as JSON writes it."""
    content = content.strip()
    if content in text:
        return True
    escaped = (json.dumps(content, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(form in text for form in escaped)


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
