"""An answer's text while its tokens come: whole characters only, stop strings cut off."""

from __future__ import annotations

REPLACEMENT = "\ufffd"  # what bytes decode to that are no character (yet)


class AnswerText:
    """Decodes the tokens of one answer one by one.

    `tokenizer`: one of transformers with a Rust backend. What may still become one of the `stop`
    strings is held back from take().
    """

    def __init__(self, tokenizer, stop: list[str]):
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stop = tokenizer, stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._text, self._taken = "", 0
        self.stopped = False

    def add(self, token: int) -> None:
        """The next token; `stopped` is true once a stop string is complete."""
        self._tokens.append(token)
        new = self._stream.step(self._tokenizer.backend_tokenizer, token)
        if new:
            before = len(self._text)
            self._text += new
            self._cut(before)

    def _cut(self, before: int) -> None:
        """Cut the text at the first stop string that ends after character `before`."""
        matches = [self._text.find(s, max(0, before - len(s) + 1)) for s in self._stop]
        places = [place for place in matches if place >= 0]
        if places:
            self._text, self.stopped = self._text[: min(places)], True

    def finish(self) -> None:
        """No token follows: bytes that never became a character are shown as U+FFFD."""
        if not self.stopped:
            whole = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
            if whole.startswith(self._text):
                before, self._text = len(self._text), whole
                self._cut(before)
        self._stop = []

    def take(self) -> str:
        """The text since the last call, without what is held back."""
        end = len(self._text) - (0 if self.stopped else self._held())
        new = self._text[self._taken : end]
        self._taken = max(self._taken, end)
        return new

    def _held(self) -> int:
        """How many characters at the end are the beginning of a stop string."""
        longest = max((len(s) for s in self._stop), default=0) - 1
        for count in range(min(longest, len(self._text)), 0, -1):
            tail = self._text[-count:]
            if any(s.startswith(tail) for s in self._stop):
                return count
        return 0
