"""The one judge of rows: what a chat template or the loss would choke on is a bad row."""

from __future__ import annotations

import re

from corpus import fields
from corpus.rows import NO_ANSWER, BadRow, Message, Row, Unwanted

# {{name}} that nobody filled in; not within code, where Jinja and Handlebars write the same
_TEMPLATE = re.compile(r"\{\{\s*[A-Za-z_][\w. ]*\}\}")
_BYTES = re.compile(r"b(['\"]).+\1", re.S)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
# What chat templates write around turns; code to be filled in (<|fim_prefix|>) has its own marks
_CONTROL = re.compile(
    r"<\|/?(?!fim_|file_sep|repo_)[A-Za-z][\w.:-]{0,40}\|>"  # ChatML, Llama 3, Phi, gpt-oss …
    r"|<\|(?:turn|tool|tool_call|tool_response|channel|think)>"  # Gemma 4 opens so, and
    r"|<(?:turn|tool|tool_call|tool_response|channel)\|>"  # closes so
    r"|\[\|(?:user|assistant|system|endofturn|Human|AI)\|\]|<(?:start|end)_of_turn>|<｜[^｜\n]{1,40}｜>|\[gMASK\]"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT)\]"
    r"|<</?SYS>>|<(?:reserved_|extra_id_|SPECIAL_)\d+>|<seed:\w{1,20}>"
    r"|\A<(?:image|video|audio)>\s|\s<(?:image|video|audio)>\Z"  # LLaVA's place for a picture
    r"|<image[ _]\d{1,2}>"
    r"|\A\s*(?:<bos>|<s>(?!.*</s>))|\A(?!.*<s>).*</s>\s*\Z|<eos>\s*\Z",
    re.S,
)


def validate(row: Row) -> None:
    """Raise BadRow where a chat template or the loss would choke on the row.

    Raises Unwanted where no turn of the row is to be learned.
    """
    if row.references == NO_ANSWER:
        raise BadRow("no answer", "the question has none; write what the model is to say then")
    _check_turns(row.messages)
    if row.rejected is not None:
        _check_pair(row)
    answers = [m for m in row.messages if m["role"] == "assistant"]
    if all(m.get("weight") == 0 for m in answers):
        raise Unwanted("marked as not to be learned")
    for message in row.messages + (row.rejected or []):
        check_text(message["content"])
        _check_written(message)


def _check_written(message: Message) -> None:
    """Raise BadRow for what pandas and Python write where there was no text."""
    role, text = message["role"], message["content"].strip()
    if role == "assistant" and text in fields.MISSING_CELLS:
        raise BadRow("not text", f"an answer is {text}, which pandas writes for a missing cell")
    if role == "user" and _BYTES.fullmatch(text):
        raise BadRow("not text", f"{text[:20]} is Python's writing of bytes: decode them")


def check_text(text: str) -> None:
    """Raise BadRow for an unfilled template, and for marks that a chat template writes."""
    if "{{" not in text and "<" not in text and "[" not in text:
        return  # most texts, quickly
    for pattern, reason in ((_TEMPLATE, "unfilled template"), (_CONTROL, "template marks")):
        if pattern.search(text) and (mark := pattern.search(_CODE.sub("", text))):
            raise BadRow(reason, mark[0].strip()[:40])


def _check_pair(row: Row) -> None:
    prompt, better, worse = row.messages[: row.prompt_turns], row.chosen, row.rejected
    if not better or not worse:
        raise BadRow("no answer", "chosen or rejected is empty")
    if better[0]["role"] != "assistant" or worse[0]["role"] != "assistant":
        raise BadRow("no common prompt", "chosen and rejected answer different questions")
    _check_turns(prompt + worse)
    if better == worse:
        raise BadRow("chosen equals rejected", "the pair teaches nothing")
    if any("weight" in m for m in better + worse):
        raise BadRow("unknown weight", "preference training has no weights of turns")


def _check_turns(messages: list[Message]) -> None:
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns:
        raise BadRow("no turns", "a row needs a user and an assistant message")
    if "user" not in turns:
        raise BadRow("no turns", "there is no user message")
    if "assistant" not in turns:
        raise BadRow("no answer", "there is no assistant message")
    previous = "assistant"
    for i, (role, message) in enumerate(zip(turns, messages[-len(turns) :], strict=True), 1):
        calls = message.get("tool_calls")
        if not message["content"].strip() and not calls and role != "tool":
            raise BadRow("empty turn", f"turn {i} ({role}) has no text")
        allowed = {"call": ("tool",), "user": ("assistant",), "assistant": ("user",)}
        if role not in allowed.get(previous, ("assistant",)):
            raise BadRow("turns out of order", f"turn {i} is {role} after {previous}")
        previous = "call" if calls else role
    if previous not in ("assistant", "call"):  # a call is an answer too
        raise BadRow("no answer", f"the last turn is a {previous}")
