"""Continuous batching: one thread that gives every running answer its next token, over and over.

New answers join between two tokens, finished and abandoned ones are taken out. What is kept in
memory is bounded when an answer is let in: rows x (longest prompt + its max_tokens) must fit.

A step that fails ends nobody's answer but that of the row that caused it: its rows are read again,
each in a pass of its own, and only those that fail there end with an error.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from typing import Any

from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from kit import console
from serving import sampling
from serving.answer_row import AnswerRow, Piece
from serving.batch import Batch, new_cache
from serving.forward import BASE, ForwardPass
from serving.step_calls import StepCalls

__all__ = ["BASE", "AnswerRow", "Engine", "EngineFull", "Piece"]
STOPPING = "the server is stopping"
LESS = 0.75  # of the tokens of rows that ran out of memory together, from then on
SUSPECT = 3  # answers that fail one after another before the model itself is asked
PREFILL = 16384  # tokens, padding counted, of the prompts that are read at once


class EngineFull(Exception):
    """Answers cannot be let in; `full` says whether trying later helps."""

    def __init__(self, why: str, full: bool):
        self.full = full
        super().__init__(why)


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
        self.forward = ForwardPass(model, mixed)
        self.failures = 0  # answers in a row whose own pass failed
        self._crowded = 0  # tokens of the rows that ran out of memory and are read again alone
        self._served: list[Any] = []  # what warm_up was given
        self._batch: Batch | None = None
        self._again: collections.deque[AnswerRow] = collections.deque()  # their step failed
        self._waiting: collections.deque[AnswerRow] = collections.deque()
        self._calls = StepCalls()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def warm_up(self, served: list[Any]) -> float:
        """One forward pass for each of `served`; returns the cache's bytes per token of a row."""
        self._served = served
        return max((self._probe(one) for one in served), default=0.0)

    def add(self, served: Any) -> None:
        """Take a newly loaded adapter in, after one pass with it. Call it in between_steps."""
        self.forward.adopt()
        self._probe(served)

    def _probe(self, served: Any) -> float:
        """One forward pass for a model of the catalog; its cache's bytes per token of a row."""
        import torch

        prompt = [min(served.ends, default=0)] * 16
        answer = AnswerRow(prompt, served.adapter, served.tokenizer, served.ends,
                           served.vocabulary, 1, lambda piece: None, seed=0)  # fmt: skip
        with torch.inference_mode():
            batch, ids = self._read([answer])
            self.forward.logits(batch, ids, first=True)
        return batch.bytes_per_token()

    @property
    def steps(self) -> int:
        """Forward passes so far."""
        return self.forward.steps

    @property
    def rows(self) -> int:
        """Rows in all forward passes so far."""
        return self.forward.rows

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether it works: its thread runs, and the model itself does not fail."""
        return self._thread.is_alive() and self.failures < SUSPECT

    @property
    def waiting(self) -> int:
        """Answers that wait for a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers in the batch, and those whose step is taken again."""
        batch = self._batch
        return (len(batch.answers) if batch else 0) + len(self._again)

    def submit(self, answers: list[AnswerRow]) -> None:
        """Queue the answers, all or none; EngineFull for a full queue or a stopped engine."""
        with self._wake:
            if self._closed:
                raise EngineFull(STOPPING, full=False)
            if self._waiting and len(self._waiting) + len(answers) > self.queue:
                raise EngineFull(f"{len(self._waiting)} requests are waiting already", full=True)
            self._waiting.extend(answers)
            self._wake.notify()

    def between_steps(self, do: Callable[[], Any]) -> Any:
        """Run `do` in the engine's thread while no pass runs; a Future of what it returns."""
        with self._wake:
            if self._closed:
                raise EngineFull(STOPPING, full=False)
            future = self._calls.add(do)
            self._wake.notify()
        return future

    def cancel(self, answers: list[AnswerRow]) -> None:
        """Take these answers out before the next token: their client went away."""
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
                work = self._waiting, self._again, self._calls
                while not (self._closed or any(work) or self._batch):
                    self._wake.wait()
                if self._closed:
                    break
            self._calls.run()
            with self._wake:
                late = self._drop_late()
                new = self._admit()
            self.post(late)
            with torch.inference_mode():
                self._step(new)
        self._give_up()

    def _drop_late(self) -> list[Piece]:
        """Take cancelled and late answers out of the queues; the last pieces of the late ones."""
        now, late = time.monotonic(), []
        for queue in (self._waiting, self._again):
            for answer in [a for a in queue if a.cancelled or now > a.deadline]:
                queue.remove(answer)
                late += [] if answer.cancelled else [answer]
        return [answer.end("timeout") for answer in late]

    def _admit(self) -> list[AnswerRow]:
        """The waiting answers that may join now, the oldest first, as rows and memory allow."""
        rows = [] if self._batch is None else list(self._batch.answers)
        new: list[AnswerRow] = []
        if self._again:  # alone, so that who fails is who failed
            return [self._again.popleft()] if self._fits(rows, self._again[0]) else []
        while self._waiting:
            answer = self._waiting[0]
            if not self._fits(rows, answer):
                break
            prompts = [len(a.prompt) for a in [*new, answer]]
            if new and len(prompts) * max(prompts) > PREFILL:
                break
            rows.append(answer)
            new.append(self._waiting.popleft())
        return new

    def _fits(self, rows: list[AnswerRow], answer: AnswerRow) -> bool:
        """Whether `answer` may join `rows`."""
        if not rows:
            return True
        cells = _cells([*rows, answer])
        mixes = self.mixed or rows[0].adapter == answer.adapter
        return len(rows) < self.max_rows and cells <= self.max_cells and mixes

    def _step(self, new: list[AnswerRow]) -> None:
        """One token for every row, and the first one for those who joined."""
        if self._batch:
            self._tried(self._decode, list(self._batch.answers))
        if new:
            self._tried(self._join, list(new))
        if self._crowded and not self._again:  # each fits alone: together they were too many
            self._lower_limit()

    def _tried(self, do: Callable[[list[AnswerRow]], None], rows: list[AnswerRow]) -> None:
        """Run a step of `rows`; handle its failure once its tensors are freed."""
        failure: Exception | None = None
        try:
            do(rows)
            self.failures = 0
        except Exception as error:
            failure = error.with_traceback(None)
        if failure:
            self._failed(failure, rows)

    def _decode(self, _rows: list[AnswerRow]) -> None:
        """Generate the next token of every row of the batch."""
        self._drop_unwanted()
        if self._batch:
            ids = self._batch.append([answer.tokens[-1] for answer in self._batch.answers])
            self._batch = self._advance(self._batch, ids)

    def _join(self, rows: list[AnswerRow]) -> None:
        """Add new rows, with their first token, to the batch; `rows` becomes the whole batch."""
        batch, ids = self._read(rows)
        joined = self._advance(batch, ids, first=True)
        if self._batch and joined:
            rows[:] = [*self._batch.answers, *joined.answers]
            self._batch.join(joined)
        self._batch = self._batch or joined

    def _drop_unwanted(self) -> None:
        """Take cancelled and late answers out of the batch."""
        if self._batch is None:
            return
        now, rows = time.monotonic(), self._batch.answers
        dropped = [a for a in rows if a.cancelled or now > a.deadline]
        if dropped:
            self.post([a.end("timeout") for a in dropped if not a.cancelled])
            self._batch = _without(self._batch, set(dropped))

    def _read(self, answers: list[AnswerRow]) -> tuple[Batch, Any]:
        """A new batch and its ids [rows, longest], padded on the left: prompts, tokens so far."""
        import torch

        answers = sorted(answers, key=lambda answer: answer.adapter)
        longest = max(answer.length for answer in answers)
        ids = torch.zeros((len(answers), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, answer in enumerate(answers):
            ids[i, longest - answer.length :] = torch.tensor(answer.prompt + answer.tokens)
            mask[i, longest - answer.length :] = 1
        device = self.model.device
        return Batch(answers, new_cache(self.forward.config), mask.to(device)), ids.to(device)

    def _advance(self, batch: Batch, ids, first: bool = False) -> Batch | None:
        """Run the model on `ids`, hand the next tokens out; the rows that go on, or None."""
        logits = self.forward.logits(batch, ids, first)
        tokens = sampling.pick(logits, batch.answers)
        chances = sampling.chances(logits, batch.answers, tokens)
        taken = zip(batch.answers, tokens, chances, strict=True)
        pieces = [piece for a, token, chance in taken if (piece := a.take(token, chance))]
        self.post(pieces)
        return _without(batch, {piece.answer for piece in pieces if piece.finish})

    def _failed(self, error: Exception, rows: list[AnswerRow]) -> None:
        """A step of `rows` broke: one row alone ends with the error, several are read again."""
        import torch

        line = console.first_line(error)
        if self._batch and any(answer in rows for answer in self._batch.answers):
            self._batch = None
        rows = [answer for answer in rows if not (answer.ended or answer.cancelled)]
        if memory_is_full(error):
            line = "out of memory"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self._crowded and len(rows) > 1:
                self._lower_limit()
            others = self._batch.answers if self._batch else []
            self._crowded = _cells([*others, *rows]) if len(rows) > 1 else 0
        if len(rows) > 1:
            console.warn(f"a step of {len(rows)} answers failed: {line}; each is read again alone")
            self._again.extend(rows)
            return
        console.warn(f"an answer failed: {line}")
        self.post([answer.fail(line) for answer in rows])
        self.failures += 1
        if self.failures >= SUSPECT and self._served and self._works():
            self.failures = 0

    def _lower_limit(self) -> None:
        """Let in less than what ran out of memory."""
        self.max_cells = min(self.max_cells, int(LESS * self._crowded))
        self._crowded = 0
        console.warn(f"out of memory: from now on at most {self.max_cells:,} tokens at once")

    def _works(self) -> bool:
        """Whether the model itself still answers, after several answers failed one by one."""
        try:
            self._probe(self._served[-1])
        except Exception as error:
            lost = gpu_is_lost(error)
            why = lost_gpu(error, "then restart the server") if lost else console.first_line(error)
            console.warn(f"the model fails: {why}")
            return False
        return True

    def _give_up(self) -> None:
        with self._wake:
            rows = [*self._waiting, *self._again, *(self._batch.answers if self._batch else ())]
            self._waiting.clear()
            self._again.clear()
            self._batch = None
            self._calls.end(EngineFull(STOPPING, full=False))
        self.post([answer.end("stopped") for answer in rows])


def _cells(rows: list[AnswerRow]) -> int:
    """Tokens that the cache of these rows may grow to, padding counted."""
    return len(rows) * max((answer.most for answer in rows), default=0)


def _without(batch: Batch, dropped: set[AnswerRow]) -> Batch | None:
    """The batch without these answers, None when nobody is left."""
    if dropped:
        rows = [i for i, answer in enumerate(batch.answers) if answer not in dropped]
        if not rows:
            return None
        batch.keep(rows)
    return batch


def _send(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.answer.send(piece)
