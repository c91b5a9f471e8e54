"""Conversations that were written into one text: Anthropic's form, and those of other speakers."""

from __future__ import annotations

import re

from corpus.rows import Message

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
# user -> assistant of other forms: OpenChat, Vicuna, Guanaco, Anthropic's short names
_OTHERS = {"Human": "Assistant", "HUMAN": "ASSISTANT", "User": "Assistant", "USER": "ASSISTANT",
           "H": "A"}  # fmt: skip
_OTHER_SPEAKER = re.compile(
    r"(?:\A\s*|\n\s*|(?=###)|(?<=\s)(?=USER:|ASSISTANT:))(?:###\s*)?"
    r"(Human|HUMAN|User|USER|H|Assistant|ASSISTANT|A):"
)


def transcript(text: str) -> list[Message] | None:
    """Anthropic's form, "\\n\\nHuman: …\\n\\nAssistant: …", as messages; None for other text.

    An empty turn at the end, which only opens the answer, is left out. What precedes the first
    "Human:" of a prompt that opens the answer is the system message.
    """
    marks = list(_SPEAKER.finditer(text))
    if not marks or marks[0][1] != "Human" or all(mark[1] == "Human" for mark in marks):
        return None
    opens = marks[-1][1] == "Assistant" and not text[marks[-1].end() :].strip()
    before = text[: marks[0].start()].strip()
    if before and not opens:
        return None
    result: list[Message] = [{"role": "system", "content": before}] if before else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role = "user" if mark[1] == "Human" else "assistant"
        result.append({"role": role, "content": text[mark.end() : end].strip()})
    return result[:-1] if opens else result


def open_transcript(text: str) -> list[Message] | None:
    """A prompt that ends with the opening of the assistant's turn, by speakers of other names.

    "### Human: … ### Assistant:" or "… USER: … ASSISTANT:". What precedes them is the system
    message. None for other text.
    """
    turns = _turns(text)
    if turns is None or turns[-1] != {"role": "assistant", "content": ""}:
        return None
    return turns[:-1]


def whole_transcript(text: str) -> list[Message] | None:
    """A conversation of speakers of other names, from its first word to an answer at its end."""
    turns = _turns(text)
    if turns is None or turns[0]["role"] != "user" or not turns[-1]["content"]:
        return None
    return turns if turns[-1]["role"] == "assistant" else None


def _turns(text: str) -> list[Message] | None:
    """The turns of two speakers in turn; None where their names do not belong together."""
    marks = list(_OTHER_SPEAKER.finditer(text))
    assistant = _OTHERS.get(marks[0][1]) if marks else None
    if assistant is None:
        return None
    names = [mark[1] for mark in marks]
    if any(name != (marks[0][1], assistant)[i % 2] for i, name in enumerate(names)):
        return None
    before = text[: marks[0].start()].strip()
    turns: list[Message] = [{"role": "system", "content": before}] if before else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for i, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        role = ("user", "assistant")[i % 2]
        turns.append({"role": role, "content": text[mark.end() : end].strip()})
    return turns
