"""Continuous batching: one thread that gives every running answer its next token, over and over.

New answers join between two tokens, finished and abandoned ones leave. Rows of different adapters
share a batch (PEFT's adapter_names). What is kept in memory is bounded when an answer is let in:
rows x (longest prompt + its max_tokens) must fit, so nothing has to be thrown out later.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from kit import console
from serving import sampling
from serving.answer_text import AnswerText
from serving.batch import Batch, new_cache

BASE = "__base__"  # PEFT's name for "no adapter"
PREFILL = 16384  # tokens, padding counted, of the prompts that are read at once


class EngineFull(Exception):
    """Answers cannot be let in; `full` says whether trying later helps."""

    def __init__(self, why: str, full: bool):
        self.full = full
        super().__init__(why)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What became of an answer: more text, and at its end why it ended.

    finish: None, "stop", "length", "timeout", "stopped" (the engine was closed) or "error" (then
    `text` says what went wrong).
    """

    answer: AnswerRow
    text: str
    finish: str | None


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
    deadline: float = float("inf")  # time.monotonic()
    cancelled: bool = False
    first: float = 0.0  # when its first token was there

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.text = AnswerText(self.tokenizer, self.stop)
        self.dice = random.Random(self.seed)

    @property
    def length(self) -> int:
        """Tokens of it in the cache once its last token is read."""
        return len(self.prompt) + len(self.tokens)

    @property
    def most(self) -> int:
        """What its length may grow to."""
        return len(self.prompt) + self.max_tokens

    def take(self, token: int) -> Piece | None:
        """The next token; what is to be sent, if anything."""
        self.first = self.first or time.monotonic()
        self.tokens.append(token)
        if token in self.ends:
            return self.end("stop")
        self.text.add(token)
        if self.text.stopped:
            return self.end("stop")
        if len(self.tokens) >= self.max_tokens:
            return self.end("length")
        new = self.text.take() if self.live else ""
        return Piece(self, new, None) if new else None

    def end(self, finish: str) -> Piece:
        """The last piece, with all the text that was not sent yet."""
        self.text.finish()
        return Piece(self, self.text.take(), finish)


class Engine:
    """Generates the answers that are submitted. `model`: a PeftModel, or a plain causal LM.

    max_rows: answers at once; max_cells: tokens that the cache may hold, padding counted;
    queue: answers that may wait; mixed: whether rows of several adapters may share a batch;
    post(pieces): called in the engine's thread after every step.
    """

    def __init__(self, model, max_rows: int, max_cells: int, queue: int, mixed: bool = True,
                 post: Callable[[list[Piece]], None] | None = None):  # fmt: skip
        self.model, self.max_rows, self.max_cells, self.queue = model, max_rows, max_cells, queue
        self.mixed, self.post = mixed, post or _send
        self.steps = self.rows = self.failures = 0  # forward passes, rows in them, failed in a row
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        self._config = base.config
        self._takes = inspect.signature(base.forward).parameters
        self._active = None
        self._batch: Batch | None = None
        self._waiting: collections.deque[AnswerRow] = collections.deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def warm_up(self, served: list[Any]) -> float:
        """One forward pass for each of `served`; returns the cache's bytes per token of a row."""
        import torch

        found = 0.0
        with torch.inference_mode():
            for one in served:
                prompt = [min(one.ends, default=0)] * 16
                answer = AnswerRow(prompt, one.adapter, one.tokenizer, one.ends, one.vocabulary, 1,
                                lambda piece: None, seed=0)  # fmt: skip
                batch, ids = self._read([answer])
                self._logits(batch, ids, first=True)
                found = batch.bytes_per_token()
        return found

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether it works: its thread runs, and the last steps did not all fail."""
        return self._thread.is_alive() and self.failures < 3

    @property
    def waiting(self) -> int:
        """Answers that wait for a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers in the batch."""
        batch = self._batch
        return len(batch.answers) if batch else 0

    def submit(self, answers: list[AnswerRow]) -> None:
        """Let the answers in, all or none; EngineFull for a full queue or a stopped engine."""
        with self._wake:
            if self._closed:
                raise EngineFull("the server is stopping", full=False)
            if self._waiting and len(self._waiting) + len(answers) > self.queue:
                raise EngineFull(f"{len(self._waiting)} requests are waiting already", full=True)
            self._waiting.extend(answers)
            self._wake.notify()

    def cancel(self, answers: list[AnswerRow]) -> None:
        """Nobody wants these any more: they leave before the next token."""
        with self._wake:
            for answer in answers:
                answer.cancelled = True
                if answer in self._waiting:
                    self._waiting.remove(answer)
            self._wake.notify()

    def close(self) -> None:
        """Stop; answers that run or wait end as "stopped"."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread -----------------------------------------------------------------------
    def _run(self) -> None:
        import torch

        while True:
            with self._wake:
                while not (self._closed or self._waiting or self._batch):
                    self._wake.wait()
                if self._closed:
                    break
                late = self._drop_late()
                new = self._admit()
            self.post(late)
            try:
                with torch.inference_mode():
                    self._step(new)
                self.failures = 0
            except Exception as error:
                self._failed(error, new)
        self._give_up()

    def _drop_late(self) -> list[Piece]:
        """Take out of the queue whose time is over before it began."""
        now = time.monotonic()
        late = [answer for answer in self._waiting if now > answer.deadline]
        for answer in late:
            self._waiting.remove(answer)
        return [answer.end("timeout") for answer in late]

    def _admit(self) -> list[AnswerRow]:
        """Who joins now: first come, first served, as long as rows and memory last."""
        rows = [] if self._batch is None else list(self._batch.answers)
        new: list[AnswerRow] = []
        while self._waiting and len(rows) < self.max_rows:
            answer = self._waiting[0]
            if rows and (len(rows) + 1) * max(a.most for a in [*rows, answer]) > self.max_cells:
                break
            if rows and not self.mixed and rows[0].adapter != answer.adapter:
                break
            prompts = [len(a.prompt) for a in [*new, answer]]
            if new and len(prompts) * max(prompts) > PREFILL:
                break
            rows.append(answer)
            new.append(self._waiting.popleft())
        return new

    def _step(self, new: list[AnswerRow]) -> None:
        """One token for every row, and the first one for those who joined."""
        self._let_go()
        if self._batch:
            ids = self._batch.append([answer.tokens[-1] for answer in self._batch.answers])
            self._batch = self._advance(self._batch, ids)
        if new:
            batch, ids = self._read(new)
            joined = self._advance(batch, ids, first=True)
            if self._batch and joined:
                self._batch.join(joined)
            self._batch = self._batch or joined

    def _let_go(self) -> None:
        """Cancelled and late answers leave."""
        if self._batch is None:
            return
        now, rows = time.monotonic(), self._batch.answers
        gone = [a for a in rows if a.cancelled or now > a.deadline]
        if gone:
            self.post([a.end("timeout") for a in gone if not a.cancelled])
            self._batch = _without(self._batch, set(gone))

    def _read(self, answers: list[AnswerRow]) -> tuple[Batch, Any]:
        """A new batch and its ids [rows, longest prompt], padded on the left."""
        import torch

        longest = max(len(answer.prompt) for answer in answers)
        ids = torch.zeros((len(answers), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, answer in enumerate(answers):
            ids[i, longest - len(answer.prompt) :] = torch.tensor(answer.prompt)
            mask[i, longest - len(answer.prompt) :] = 1
        device = self.model.device
        return Batch(answers, new_cache(self._config), mask.to(device)), ids.to(device)

    def _advance(self, batch: Batch, ids, first: bool = False) -> Batch | None:
        """Run the model on `ids`, hand the next tokens out; the rows that go on, or None."""
        tokens = sampling.pick(self._logits(batch, ids, first), batch.answers)
        pairs = zip(batch.answers, tokens, strict=True)
        pieces = [piece for a, token in pairs if (piece := a.take(token))]
        self.post(pieces)
        return _without(batch, {piece.answer for piece in pieces if piece.finish})

    def _logits(self, batch: Batch, ids, first: bool):
        """The logits [rows, vocabulary] of what follows `ids`, as float32."""
        self.steps += 1
        self.rows += len(batch.answers)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": batch.mask}
        if (
            "cache_params" in self._takes
        ):  # Mamba: its states have no columns that a mask could hide
            inputs |= {"cache_params": batch.cache, "attention_mask": batch.mask if first else None}
        else:
            inputs["past_key_values"] = batch.cache
        if "position_ids" in self._takes:
            positions = (batch.mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        inputs |= self._adapter([answer.adapter for answer in batch.answers])
        return self.model(**inputs, use_cache=True).logits[:, -1].float()

    def _adapter(self, names: list[str]) -> dict[str, Any]:
        """What makes each row use its adapter: PEFT's faster way where all use the same."""
        if not hasattr(self.model, "peft_config"):
            return {}
        if names[0] == BASE or len(set(names)) > 1:
            return {"adapter_names": names}
        if self._active != names[0]:
            self.model.set_adapter(names[0])
            self._active = names[0]
        return {}

    def _failed(self, error: Exception, new: list[AnswerRow]) -> None:
        """A step broke: its answers end with an error, and the next ones start afresh."""
        import torch

        self.failures += 1
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        rows = {*new, *(self._batch.answers if self._batch else ())}
        self._batch = None
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            self.max_rows = max(1, len(rows) // 2)
            line = f"out of GPU memory; from now on {self.max_rows} answers at once"
        console.warn(f"the model failed: {line}")
        self.post([Piece(answer, line, "error") for answer in rows])

    def _give_up(self) -> None:
        with self._wake:
            rows = [*self._waiting, *(self._batch.answers if self._batch else ())]
            self._waiting.clear()
            self._batch = None
        self.post([answer.end("stopped") for answer in rows])


def _without(batch: Batch, gone: set[AnswerRow]) -> Batch | None:
    """The batch without these answers, None when nobody is left."""
    if gone:
        rows = [i for i, answer in enumerate(batch.answers) if answer not in gone]
        if not rows:
            return None
        batch.keep(rows)
    return batch


def _send(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.answer.send(piece)
