"""One request while it is answered."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from serving.answer_forms import ChatForm, TextForm
from serving.answer_row import AnswerRow, Piece
from serving.api_errors import ApiError
from serving.api_requests import ChatRequest, CompletionRequest
from serving.model_catalog import Served


class Exchange:
    """One request while it is answered: its answers, and the queue of their pieces.

    service: the serving.service.Service that runs its answers.
    """

    def __init__(self, service: Any, asked: ChatRequest | CompletionRequest, served: Served,
                 form: ChatForm | TextForm, prompt: int):  # fmt: skip
        self.service, self.asked, self.served, self.prompt = service, asked, served, prompt
        self.form, self.id = form, f"{form.prefix}-{secrets.token_hex(12)}"
        self.created, self._began = int(time.time()), time.monotonic()
        self.queue: asyncio.Queue[Piece] = asyncio.Queue()
        self.answers: list[AnswerRow] = []
        self.finished: set[AnswerRow] = set()
        self._ended = False

    async def pieces(self) -> list[Piece]:
        """The pieces that are there, at least one. ApiError if an answer failed."""
        pieces = [await self.queue.get()]
        while not self.queue.empty():
            pieces.append(self.queue.get_nowait())
        for piece in pieces:
            if piece.finish == "timeout":
                seconds = f"{self.service.limits.seconds:g}"
                raise ApiError(504, "timeout", f"no answer within {seconds} s")
            if piece.finish == "stopped":
                self.service.cut += 1
                raise ApiError(503, "stopping", "the server is stopping")
            if piece.finish == "error":
                raise ApiError(500, "generation_failed", f"the answer failed: {piece.text}")
            if piece.finish:
                self.finished.add(piece.answer)
        return pieces

    @property
    def open(self) -> bool:
        """Whether answers are still being generated."""
        return len(self.finished) < len(self.answers)

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's usage object."""
        made = sum(len(answer.tokens) for answer in self.answers)
        return {"prompt_tokens": self.prompt, "completion_tokens": made,
                "total_tokens": self.prompt + made}  # fmt: skip

    def end(self, status: str = "200") -> None:
        """Count it; what still runs is cancelled. Only the first call does anything."""
        if self._ended:
            return
        self._ended = True
        if self.open:
            self.service.engine.cancel([a for a in self.answers if a not in self.finished])
        now, metrics = time.monotonic(), self.service.metrics
        self.service.count(self.served.id, status)
        metrics.count("tandem_completion_tokens_total", self.usage["completion_tokens"],
                      model=self.served.id)  # fmt: skip
        if status == "200":
            metrics.count("tandem_prompt_tokens_total", self.prompt, model=self.served.id)
            metrics.observe("tandem_request_seconds", now - self._began, model=self.served.id)
            first = min(answer.first for answer in self.answers) - self._began
            metrics.observe("tandem_first_token_seconds", first, model=self.served.id)
            self.service.usual += 0.1 * (now - self._began - self.service.usual)
