"""How generated answers look in OpenAI's two APIs, whole and as a stream's chunks.

ChatForm  /v1/chat/completions: messages, tool calls, logprobs as a list of tokens
TextForm  /v1/completions: text, logprobs as parallel lists
"""

from __future__ import annotations

from typing import Any

from serving import tool_calls
from serving.answer_row import AnswerRow
from serving.answer_text import REPLACEMENT


class ChatForm:
    """Answers of /v1/chat/completions. `tools`: those that were offered."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tools: list[dict[str, Any]] | None):
        self.tools = tools

    def choice(self, index: int, answer: AnswerRow, text: str, finish: str) -> dict[str, Any]:
        """One finished answer."""
        content, calls = tool_calls.parse(text, self.tools)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {"index": index, "message": message, "logprobs": self.chances(answer, 0, None),
                "finish_reason": "tool_calls" if calls else finish}  # fmt: skip

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choices that a stream begins with."""
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def stream(self) -> ChatStream:
        """The object that turns one answer's text into chunks."""
        return ChatStream(self)

    def chances(self, answer: AnswerRow, begin: int, end: int | None) -> dict[str, Any] | None:
        """The logprobs object of the tokens from `begin` to `end`."""
        if answer.top is None:
            return None
        listed = [
            _token(answer, chance.token, chance.logprob)
            | {"top_logprobs": [_token(answer, *pair) for pair in chance.top]}
            for chance in answer.chances[begin:end]
        ]
        return {"content": listed, "refusal": None}

    @staticmethod
    def _delta(index: int, delta: dict[str, Any], finish: str | None = None,
               logprobs: dict[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class ChatStream:
    """Streams one chat answer; with tools, text that may become a tool call is held back."""

    def __init__(self, form: ChatForm):
        self._form, self._text, self._sent, self._tokens = form, "", 0, 0
        self._called = False

    def add(self, index: int, answer: AnswerRow, new: str, tokens: int,
            finish: str | None) -> list[dict[str, Any]]:  # fmt: skip
        """The chunks' choices for `new` text; `tokens` were generated up to its end."""
        self._text += new
        deltas = self._deltas(last=finish is not None)
        chances = self._form.chances(answer, self._tokens, tokens)
        self._tokens = tokens
        if chances and chances["content"] and not deltas:
            deltas = [{"content": ""}]
        choices = [
            self._form._delta(index, delta, logprobs=None if i else chances)
            for i, delta in enumerate(deltas)
        ]
        if finish:
            choices.append(self._form._delta(index, {}, "tool_calls" if self._called else finish))
        return choices

    def _deltas(self, last: bool) -> list[dict[str, Any]]:
        """The deltas to send now."""
        end, tools = len(self._text), self._form.tools
        calls: list[dict[str, Any]] = []
        if tools and last:
            _, calls = tool_calls.parse(self._text, tools)
            end = self._sent if calls else end
        elif tools:
            place = tool_calls.may_begin(self._text, self._sent)
            end = end if place is None else place
        deltas: list[dict[str, Any]] = []
        if end > self._sent:
            deltas.append({"content": self._text[self._sent : end]})
            self._sent = end
        if calls:
            self._called = True
            deltas.append({"tool_calls": [{"index": i} | call for i, call in enumerate(calls)]})
        return deltas


class TextForm:
    """Answers of /v1/completions."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, answer: AnswerRow, text: str, finish: str | None,
               begin: int = 0, end: int | None = None) -> dict[str, Any]:  # fmt: skip
        """One answer, or the part of it with the tokens from `begin` to `end`."""
        return {"index": index, "text": text, "logprobs": self.chances(answer, begin, end),
                "finish_reason": finish}  # fmt: skip

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choices that a stream begins with: none."""
        return []

    def stream(self) -> TextStream:
        """The object that turns one answer's text into chunks."""
        return TextStream(self)

    def chances(self, answer: AnswerRow, begin: int, end: int | None) -> dict[str, Any] | None:
        """The logprobs object of the tokens from `begin` to `end`."""
        if answer.top is None:
            return None
        chances = answer.chances[begin:end]
        offsets, length = [], len(_text(answer, [c.token for c in answer.chances[:begin]]))
        for chance in chances:
            offsets.append(length)
            length += len(_text(answer, [chance.token]))
        return {
            "tokens": [_text(answer, [chance.token]) for chance in chances],
            "token_logprobs": [chance.logprob for chance in chances],
            "top_logprobs": [{_text(answer, [t]): p for t, p in c.top} for c in chances],
            "text_offset": offsets,
        }


class TextStream:
    """Streams one answer of /v1/completions."""

    def __init__(self, form: TextForm):
        self._form, self._tokens = form, 0

    def add(self, index: int, answer: AnswerRow, new: str, tokens: int,
            finish: str | None) -> list[dict[str, Any]]:  # fmt: skip
        """The chunk's choice for `new` text; `tokens` were generated up to its end."""
        if not new and not finish:
            return []
        begin, self._tokens = self._tokens, tokens
        return [self._form.choice(index, answer, new, finish, begin, tokens)]


def _text(answer: AnswerRow, tokens: list[int]) -> str:
    return answer.tokenizer.decode(tokens)


def _token(answer: AnswerRow, token: int, logprob: float) -> dict[str, Any]:
    """A token of the chat API's logprobs; half a character has no bytes of its own."""
    text = _text(answer, [token])
    raw = None if REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": raw}
