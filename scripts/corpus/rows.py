"""What moves through data preparation: a Document, a Row to be trained on, a Reject left out.

Messages are `{"role": system|user|assistant|tool, "content": text}`; an assistant message may
carry `tool_calls`, one call each, with `arguments` as an object, as chat templates want them,
`reasoning_content`, and `weight: 0` where the loss leaves it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]
NO_ANSWER = [""]  # the references of a question that has no answer, as in SQuAD 2.0


class Unwanted(Exception):
    """A sound record that is left out, for example negative feedback; the text is the reason."""


class BadRow(Exception):
    """A record that cannot become a row. `reason` is counted, `detail` says what is wrong."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclasses.dataclass(slots=True)
class Row:
    """One conversation. `rejected` holds the worse answer of a preference row."""

    messages: list[Message]
    tools: list[dict] | None = None
    topic: str | None = None
    rejected: list[Message] | None = None
    prompt_turns: int = 0  # of a preference row: how many messages both answers share
    group: str = ""  # rows of one group stay on one side of the split
    source: str = ""
    number: int = 0
    shingles: Any = None  # of text(), once they have been taken
    passage: str = ""  # the text that the question is about, where the record names it
    references: list[str] | None = None  # all answers that count as right; the first is learned
    unused: Sequence[str] = ()  # keys of the record

    @property
    def where(self) -> str:
        return f"{self.source}:{self.number}"

    def text(self) -> str:
        """What the row says, without system message and tool results: duplicates are judged by it.

        Arguments of tool calls belong to it; so does the worse answer of a preference row.
        """
        parts = []
        for message in self.messages + (self.rejected or []):
            if message["role"] in ("user", "assistant"):
                parts.append(message["content"])
                parts += [
                    " ".join(map(str, call["function"]["arguments"].values()))
                    for call in message.get("tool_calls", ())
                ]
        return "\n".join(parts)

    @property
    def chosen(self) -> list[Message]:
        """The better answer of a preference row."""
        return self.messages[self.prompt_turns :]

    def sft(self) -> dict[str, Any]:
        """The row as train_sft.jsonl holds it."""
        row: dict[str, Any] = {"messages": self.messages}
        if self.tools:
            row["tools"] = self.tools
        return row | self._origin()

    def preference(self) -> dict[str, Any]:
        """The row as train_preference.jsonl holds it: prompt, chosen and rejected messages."""
        turns = self.prompt_turns
        row = {"prompt": self.messages[:turns], "chosen": self.messages[turns:]}
        tools = {"tools": self.tools} if self.tools else {}
        return row | {"rejected": self.rejected} | tools | self._origin()

    def _origin(self) -> dict[str, str]:
        return ({"topic": self.topic} if self.topic else {}) | {"source": self.source}


@dataclasses.dataclass
class Reject:
    """A record that was left out. `bad`: it is broken, rather than filtered."""

    source: str
    number: int  # the line, or the place in a JSON array, from 1; 0: the whole file
    reason: str
    detail: str = ""
    bad: bool = True
    record: Any = None

    def line(self) -> str:
        where = f"{self.source}:{self.number}" if self.number else self.source
        return f"{where}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclasses.dataclass
class Document:
    """One text to be read in order. `page` counts from 1; None where there are no pages."""

    source: str
    title: str
    text: str
    page: int | None = None
    number: int = 0  # its place in the file, from 1


def name_of(path: Path) -> str:
    """A title for a file that has none: its name without underscores."""
    return path.stem.replace("_", " ").strip() or path.name
