"""The model behind the API: loading in the background, limits, prompts, one request's answers."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from adapters.names import LONGEST
from adapters.version_store import Version
from base_model import chat_template, library_exit, loading
from kit import console
from serving import cache_memory, tool_calls
from serving.answer_exchange import Exchange
from serving.answer_forms import ChatForm, TextForm
from serving.answer_shape import AnswerShapes, guide_of
from serving.api_errors import ApiError
from serving.api_requests import ChatRequest, CompletionRequest
from serving.engine import AnswerRow, Engine, EngineFull, Piece
from serving.forward import PIECE
from serving.live_versions import LiveVersions
from serving.model_catalog import Catalog, Served, forget, load_all, load_one
from serving.prometheus import ServingMetrics

NEWER_SECONDS = 60.0  # that a request waits for a version that has just come into the store
MOST_REFUSED = 8  # versions that one request may find damaged: below them only served ones count
CONTEXT = 32768  # tokens, for models that name no longest context (Mamba)


@dataclasses.dataclass(frozen=True)
class ServiceLimits:
    """What a server takes on at once."""

    rows: int = 32  # answers in the batch
    queue: int = 128  # answers that wait
    seconds: float = 300  # a request may take, waiting counted
    body: int = 1 << 20  # bytes of a request
    context: int | None = None  # tokens of prompt and answer; None: what model and memory allow
    answer: int = 1024  # tokens of an answer whose request names no limit


class Service:
    """`state` is loading, ready, failed (then `problem` says why) or draining."""

    relays = False  # whether requests are handed on as they came (serving/vllm_front.py)

    def __init__(self, catalog: Catalog, limits: ServiceLimits | None = None,
                 changed: Callable[[Service], None] = lambda service: None,
                 references: Sequence[str] = ()):  # fmt: skip
        self.catalog, self.limits, self._changed = catalog, limits or ServiceLimits(), changed
        self.live = LiveVersions(catalog, references, not self.relays)
        self._adding: asyncio.Lock | None = None
        self._coming: dict[str, asyncio.Task] = {}  # versions that are verified and loaded now
        self.metrics = ServingMetrics()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.state, self.problem = "loading", None
        self.engine: Engine | None = None
        self.temperature = self.top_p = 1.0  # where a request names none: the model's own
        self.embedded = 0  # tokens that the model's embedding knows
        self.context, self.usual = 0, 1.0  # tokens; seconds that a request takes
        self.shapes = AnswerShapes()
        self._forget: Callable[[], None] = lambda: None  # ends the handling of a library's exit()
        self.cut = 0  # requests that were not finished when the server stopped

    # --- its life -------------------------------------------------------------------------
    def start(self) -> None:
        """Load in a thread of its own; call it inside the event loop that will serve."""
        self._loop = asyncio.get_running_loop()
        self._adding = asyncio.Lock()
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    def _load(self) -> None:
        try:
            if self.catalog.folder:
                self._build_engine()
            outcome = "ready"
        except Exception as error:
            self.problem, outcome = error, "failed"

        def finish() -> None:
            self.state = outcome if self.state == "loading" else self.state
            self._changed(self)

        self._loop.call_soon_threadsafe(finish)

    def _build_engine(self) -> None:
        if loading.device() == "cuda":
            self._forget = library_exit.handle(cache_memory.print_end)
        model = load_all(self.catalog)
        limits = self.limits
        engine = Engine(model, limits.rows, 0, limits.queue, self.catalog.mixed, self._post)
        per_token = engine.warm_up(self.catalog.served)
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", CONTEXT)
        engine.max_cells = limits.rows * longest
        if per_token:
            gpu = model.device.type == "cuda"
            engine.max_cells = cache_memory.cells(
                _free(model.device), per_token, model.config.get_text_config(), limits.rows,
                PIECE, gpu,
            )  # fmt: skip
        self.context = min(limits.context or longest, longest, engine.max_cells)
        self.embedded = model.get_input_embeddings().weight.shape[0]
        usual = model.generation_config
        self.temperature = _within(usual.temperature, 0, 2)
        self.top_p = _within(usual.top_p, 0, 1)
        engine.start()
        self.engine = engine

    def drain(self, seconds: float) -> None:
        """Take nothing new; what runs goes on that long. A signal handler may call it."""
        if self.state != "draining":
            self.state = "draining"
            if self._loop is None:
                return
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._cut_off)

    def _cut_off(self) -> None:
        threading.Thread(target=self.stop, name="stopping", daemon=True).start()

    def stop(self) -> None:
        """End the engine; what still runs is cut off."""
        if self.engine:
            self.engine.close()
        self._forget()

    def _post(self, pieces: list[Piece]) -> None:
        if pieces:
            self._loop.call_soon_threadsafe(_hand_over, pieces)

    def count(self, model: str, status: str) -> None:
        """Count a request under its HTTP status (499: the client went away); model '': unknown."""
        self.metrics.count("tandem_requests_total", model=model, status=status)

    # --- one request ----------------------------------------------------------------------
    def begin(self, asked: ChatRequest | CompletionRequest, served: Served,
              prompts: list[list[int]], grammar: Any = None) -> Exchange:  # fmt: skip
        """Submit a request. ApiError 429 when too many wait, 503 while loading or draining."""
        self.check_open()
        form = ChatForm(asked.offered) if isinstance(asked, ChatRequest) else TextForm()
        exchange = Exchange(self, asked, served, form, sum(map(len, prompts)))
        first = secrets.randbits(62) if asked.seed is None else asked.seed
        exchange.answers = [
            AnswerRow(
                prompt, served.adapter, served.tokenizer, served.ends, served.vocabulary,
                self._wanted(asked, prompt), exchange.queue.put_nowait,
                seed=first + i,
                temperature=self.temperature if asked.temperature is None else asked.temperature,
                top_p=self.top_p if asked.top_p is None else asked.top_p,
                stop=asked.stop, live=asked.stream, top=asked.top,
                guide=guide_of(grammar),
                deadline=time.monotonic() + self.limits.seconds,
            )
            for i, prompt in enumerate(prompt for prompt in prompts for _ in range(asked.n))
        ]  # fmt: skip
        try:
            self.engine.submit(exchange.answers)
        except EngineFull as full:
            wait = math.ceil(self.usual * (1 + self.engine.waiting / self.limits.rows))
            status, later = 429 if full.full else 503, max(1, min(wait, 60))
            raise ApiError(status, "overloaded", str(full), "try again later",
                           retry_after=later) from None  # fmt: skip
        return exchange

    def _wanted(self, asked: ChatRequest | CompletionRequest, prompt: list[int]) -> int:
        """How many tokens the answer may have. ApiError 400 for a prompt that cannot be read."""
        if not prompt:
            raise ApiError(400, "invalid_messages", "the prompt has no tokens", param="messages")
        if max(prompt) >= self.embedded:
            text = f"the prompt has the token {max(prompt)}, the model knows {self.embedded}"
            raise ApiError(400, "invalid_messages", text, param="messages")
        room = self.context - len(prompt)
        wanted = asked.limit or min(self.limits.answer, room)
        if wanted > room or room < 1:
            text = f"the context holds {self.context} tokens"
            remedy = f"the messages have {len(prompt)}"
            remedy += f" and {asked.limit} are asked for the answer" if asked.limit else ""
            raise ApiError(400, "context_length_exceeded", text, remedy, param="messages")
        return wanted

    def check_open(self) -> None:
        """ApiError 503 unless requests are taken now."""
        if self.state != "ready":
            raise ApiError(503, "not_ready", f"not ready: {self.state}", retry_after=5)

    @property
    def broken(self) -> bool:
        """Whether the model failed again and again; requests are tried all the same."""
        return self.engine is not None and not self.engine.healthy

    def find(self, name: str) -> Served:
        """The model of that name; ApiError 404 with the nearest."""
        served = self.catalog.find(name)
        if served is None:
            shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
            text, remedy = f"there is no model {shown}", self.catalog.nearest(name)
            raise ApiError(404, "model_not_found", text, remedy, param="model")
        return served

    async def resolve(self, name: str) -> Served:
        """What a name means now: a version that came into the store since is loaded first.

        ApiError 404 for a version that cannot be served. Where a name leaves several, the next
        lower one answers instead.
        """
        candidates = self.live.candidates(name)
        if not candidates or self.state != "ready":
            return self.find(name)
        refusal: console.Problem | None = None
        refused = 0
        for version in reversed(candidates):
            if already := self.live.served(version):
                return already
            if refused < MOST_REFUSED:
                try:
                    return await self._add(version)
                except console.Problem as problem:
                    refusal, refused = refusal or problem, refused + 1
        if isinstance(refusal, ApiError):  # later it may be served
            raise refusal
        raise ApiError(404, "version_refused", refusal.text, refusal.remedy, param="model")

    async def _add(self, version: Version) -> Served:
        """Verify and load a version, once for all who ask for it and whether they stay or not.

        ApiError 503 where that takes longer than NEWER_SECONDS.
        """
        task = self._coming.get(version.reference)
        if task is None:
            task = self._coming[version.reference] = asyncio.create_task(self._bring(version))
            task.add_done_callback(lambda done: self._arrived(version, done))
        try:
            return await asyncio.wait_for(asyncio.shield(task), NEWER_SECONDS)
        except asyncio.TimeoutError:
            text = f"{version.reference} is still being verified"
            raise ApiError(503, "not_ready", text, retry_after=30) from None

    def _arrived(self, version: Version, task: asyncio.Task) -> None:
        del self._coming[version.reference]
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more

    async def _bring(self, version: Version) -> Served:
        """Verify and load a version; requests of others go on meanwhile."""
        async with self._adding:
            if already := self.live.served(version):
                return already
            made = await asyncio.to_thread(self.live.prepare, version)
            try:
                await self._load_one(made)
            except EngineFull as full:
                raise ApiError(503, "not_ready", str(full), retry_after=5) from None
            except ApiError:
                raise
            except Exception as error:
                raise self.live.refuse(version, made.files, error) from None
            self.live.take(made)
            console.say(f"{made.id} was loaded")
            return made

    async def _load_one(self, made: Served) -> None:
        """Put a verified version on the model, between two steps."""
        engine = self.engine

        def add() -> None:
            load_one(self.catalog, engine.model, made)
            try:
                self.live.check_unchanged(made)
                engine.add(made)
            except Exception as error:
                forget(engine.model, made)
                if isinstance(error, console.Problem):
                    raise
                line = console.first_line(error)
                text = f"its first pass failed ({line})"
                raise console.Problem(text, "restart the server with it says more") from None

        await asyncio.wrap_future(engine.between_steps(add))

    def encode(self, asked: ChatRequest | CompletionRequest, served: Served) -> list[list[int]]:
        """The token ids of each prompt."""
        if isinstance(asked, ChatRequest):
            return [self._encode_chat(asked, served)]
        try:
            return [
                prompt if isinstance(prompt, list) else served.tokenizer(prompt)["input_ids"]
                for prompt in asked.prompts
            ]
        except UnicodeError:
            text = "the prompt is not Unicode"
            raise ApiError(400, "invalid_value", text, param="prompt") from None

    def grammar(self, asked: ChatRequest | CompletionRequest, served: Served) -> Any:
        """What the answers are held to, None where they are free."""
        return self.shapes.grammar(asked.response_format, served) if asked.shaped else None

    def _encode_chat(self, asked: ChatRequest, served: Served) -> list[int]:
        """The token ids of messages, by the model's own chat template."""
        try:
            messages = tool_calls.for_template(asked.plain_messages())
        except ValueError as place:
            text = f"{place} must be a JSON object"
            raise ApiError(400, "invalid_value", text, param=str(place)) from None
        if not served.tokenizer.chat_template:
            text = f"{served.id} has no chat template"
            raise ApiError(400, "no_chat_template", text, param="model")
        try:
            text = chat_template.render(served.tokenizer, messages, asked.offered, prompt=True)
            text.encode()
            return served.tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # the template's own refusal, or a lone surrogate
            why = console.first_line(error)
            text = f"the chat template of {served.id} refuses the messages: {why}"
            raise ApiError(400, "invalid_messages", text, param="messages") from None


def _within(value: Any, low: float, high: float) -> float:
    """A number of a model's generation_config.json, 1 where it is none or out of bounds."""
    return float(value) if isinstance(value, int | float) and low <= value <= high else 1.0


def _hand_over(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.answer.send(piece)


def _free(device: Any) -> int:
    """Bytes of memory that are free on a device."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def describe(error: Exception) -> console.Problem:
    """The problem of a failed start, as one line."""
    if isinstance(error, (console.Problem, OSError)):
        return error
    line = (str(error).strip().splitlines() or ["no message"])[0]
    return console.Problem(f"the model could not be loaded ({type(error).__name__}: {line})")
