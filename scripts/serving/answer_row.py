"""One answer while it is generated, as a row of the batch, and the pieces that are sent of it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Callable
from typing import Any

from kit import console
from serving.answer_text import AnswerText


@dataclasses.dataclass(frozen=True)
class TokenChance:
    """A token that was chosen, its logprob, and the likeliest tokens of that step with theirs."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What became of an answer: more text, and at its end why it ended.

    finish: None, "stop", "length", "timeout", "stopped" (the engine was closed) or "error" (then
    `text` says what went wrong).
    """

    answer: AnswerRow
    text: str
    finish: str | None
    tokens: int = 0  # of the answer, up to the end of `text`


@dataclasses.dataclass(eq=False)
class AnswerRow:
    """One answer to be generated. `live`: send text as it comes, not only at the end."""

    prompt: list[int]
    adapter: str
    tokenizer: Any
    ends: frozenset[int]
    vocabulary: int
    max_tokens: int
    send: Callable[[Piece], None]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: list[str] = dataclasses.field(default_factory=list)
    live: bool = False
    guide: Any = None  # serving.token_guide.Guide: what response_format allows
    top: int | None = None  # likeliest tokens whose logprobs are kept; None: no logprobs at all
    deadline: float = float("inf")  # time.monotonic()
    cancelled: bool = False
    ended: bool = False
    first: float = 0.0  # when its first token was there

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.chances: list[TokenChance] = []  # of `tokens`, without the one that ends the answer
        self.text = AnswerText(self.tokenizer, self.stop)
        self.dice = random.Random(self.seed)
        self.broken = ""  # why its guide allows nothing

    @property
    def length(self) -> int:
        """Tokens that the row takes in the cache once its last token is read."""
        return len(self.prompt) + len(self.tokens)

    @property
    def most(self) -> int:
        """The tokens that the row can have at most."""
        return len(self.prompt) + self.max_tokens

    def allowed(self) -> Any:
        """The tokens that its guide allows, as booleans; None where the guide fails."""
        try:
            return self.guide.allowed(self.ends)
        except Exception as error:
            self.broken = console.first_line(error)
            return None

    def take(self, token: int | None, chance: TokenChance | None = None) -> Piece | None:
        """The next token (None: the model gave none); what is to be sent, if anything.

        What goes wrong with one answer's text ends that answer alone.
        """
        if token is None:
            return self.fail(self.broken or "the model's numbers for it are not finite")
        if chance and token not in self.ends:
            self.chances.append(chance)
        try:
            return self._take(token)
        except Exception as error:
            return self.fail(console.first_line(error))

    def _take(self, token: int) -> Piece | None:
        self.first = self.first or time.monotonic()
        self.tokens.append(token)
        if token in self.ends:
            return self.end("stop")
        self.text.add(token)
        if self.guide:
            self.guide.take(token)
        if self.text.stopped or (self.guide and self.guide.complete):
            return self.end("stop")
        if len(self.tokens) >= self.max_tokens:
            return self.end("length")
        new = self.text.take() if self.live else ""
        return Piece(self, new, None, len(self.chances)) if new else None

    def end(self, finish: str) -> Piece:
        """The last piece, with all the text that was not sent yet."""
        self.ended = True
        with contextlib.suppress(Exception):  # bytes at the end that the tokenizer cannot decode
            self.text.finish()
        return Piece(self, self.text.take(), finish, len(self.chances))

    def fail(self, why: str) -> Piece:
        """The last piece of an answer that went wrong."""
        self.ended = True
        return Piece(self, why, "error")
