"""/v1/models, /v1/chat/completions as OpenAI's clients expect them; /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from serving import chat_request, prometheus, tool_calls
from serving.api_errors import ApiError
from serving.service import Exchange, Service

SLACK = 30  # seconds beyond its time in which a client may take the end of a stream
LARGE = 1 << 16  # bytes of a body above which its tokens are counted beside the event loop
router = APIRouter()


def service_of(request: Request) -> Service:
    """The Service that create_app was given."""
    return request.app.state.service


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 while the process works, loading or draining too; 500 when its model is broken."""
    service = service_of(request)
    if service.broken:
        return JSONResponse({"status": "the model fails"}, 500)
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 when requests are answered, else 503."""
    service = service_of(request)
    service.check_open()
    if service.broken:
        raise ApiError(503, "not_ready", "not ready: the model fails", retry_after=5)
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def numbers(request: Request) -> PlainTextResponse:
    """Prometheus' text format."""
    service = service_of(request)
    engine = service.engine
    gauges = {"tandem_ready": float(service.state == "ready")}
    if engine:
        gauges |= {"tandem_answers_running": engine.running,
                   "tandem_answers_waiting": engine.waiting,
                   "tandem_model_steps_total": engine.steps,
                   "tandem_model_rows_total": engine.rows}  # fmt: skip
    return PlainTextResponse(service.metrics.text(**gauges), media_type=prometheus.TYPE)


def _model(service: Service, served) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": served.created, "owned_by": "tandem",
            "parent": served.parent, "max_model_len": service.context or None}  # fmt: skip


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The base and its adapters."""
    service = service_of(request)
    return {"object": "list", "data": [_model(service, s) for s in service.catalog.served]}


@router.get("/v1/models/{name:path}")
async def one_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    service = service_of(request)
    return _model(service, service.find(name))


@router.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """One request: whole, or as a stream of events."""
    service = service_of(request)
    request.state.model = ""  # what the request is counted under, once that is known
    try:
        exchange = await _begin(request, service)
    except Exception as error:
        status = 499 if isinstance(error, ClientDisconnect) else getattr(error, "status", 500)
        service.count(request.state.model, str(status))
        raise
    if exchange.asked.stream:
        return Events(exchange)
    return await _whole(request, exchange)


async def _begin(request: Request, service: Service) -> Exchange:
    """Read the request and let it in; ApiError for one that is not answered."""
    body = await request.body()
    asked = chat_request.read(body)
    served = service.find(asked.model)
    request.state.model = served.id
    service.check_open()
    if len(body) > LARGE:
        prompt = await asyncio.to_thread(service.encode, asked, served)
    else:
        prompt = service.encode(asked, served)
    return service.begin(asked, served, prompt)


# --- whole --------------------------------------------------------------------------------
async def _whole(request: Request, exchange: Exchange) -> Response:
    """The answer as one object, unless the client goes away before."""
    collecting = asyncio.ensure_future(_collect(exchange))
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            exchange.end("499")
            return Response(status_code=499)
        try:
            choices = collecting.result()
        except ApiError as error:
            exchange.end(str(error.status))
            error.headers["x-should-retry"] = "false"  # OpenAI's client would ask twice more
            raise
        except Exception:
            exchange.end("500")
            raise
        exchange.end()
        return JSONResponse(_object(exchange, "chat.completion", choices, usage=exchange.usage))
    finally:
        collecting.cancel()
        leaving.cancel()
        exchange.end("499")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _collect(exchange: Exchange) -> list[dict[str, Any]]:
    """The choices, once all answers are finished."""
    texts = dict.fromkeys(exchange.answers, "")
    ends: dict[Any, str] = {}
    while exchange.open:
        for piece in await exchange.pieces():
            texts[piece.answer] += piece.text
            if piece.finish:
                ends[piece.answer] = piece.finish
    choices = []
    for i, answer in enumerate(exchange.answers):
        content, calls = tool_calls.parse(texts[answer], exchange.asked.offered)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        finish = "tool_calls" if calls else ends[answer]
        choices.append({"index": i, "message": message, "logprobs": None, "finish_reason": finish})
    return choices


def _object(exchange: Exchange, kind: str, choices: list[dict], **more: Any) -> dict[str, Any]:
    return {"id": exchange.id, "object": kind, "created": exchange.created,
            "model": exchange.served.id, "system_fingerprint": exchange.served.fingerprint,
            "choices": choices} | more  # fmt: skip


# --- as a stream --------------------------------------------------------------------------
class Events(StreamingResponse):
    """The answer as server-sent events. However it ends, its generation ends with it."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(exchange), 200, headers, "text/event-stream")

    async def __call__(self, scope, receive, send) -> None:
        try:  # a client that does not read is let go, too
            with anyio.move_on_after(self.exchange.service.limits.seconds + SLACK):
                await super().__call__(scope, receive, send)
        finally:
            self.exchange.end("499")


async def _events(exchange: Exchange) -> AsyncIterator[str]:
    told = [Told(exchange.asked.offered) for _ in exchange.answers]
    index = {answer: i for i, answer in enumerate(exchange.answers)}
    counted = bool(exchange.asked.stream_options and exchange.asked.stream_options.include_usage)
    blank = {"usage": None} if counted else {}

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        found = _object(exchange, "chat.completion.chunk", choices, **(blank | more))
        return f"data: {json.dumps(found, ensure_ascii=False, separators=(',', ':'))}\n\n"

    opening = {"role": "assistant", "content": ""}
    yield "".join(event([_choice(i, opening)]) for i in range(len(told)))
    try:
        while exchange.open:
            new = dict.fromkeys(exchange.answers, "")
            ends = {}
            for piece in await exchange.pieces():
                new[piece.answer] += piece.text
                if piece.finish:
                    ends[piece.answer] = piece.finish
            lines = []
            for answer in exchange.answers:
                i = index[answer]
                for delta in told[i].add(new[answer], last=answer in ends):
                    lines.append(event([_choice(i, delta)]))
                if answer in ends:
                    finish = "tool_calls" if told[i].called else ends[answer]
                    lines.append(event([_choice(i, {}, finish)]))
            if lines:
                yield "".join(lines)
    except ApiError as error:
        exchange.end(str(error.status))
        yield f"data: {json.dumps(error.body, ensure_ascii=False)}\n\n"
        return
    exchange.end()
    if counted:
        yield event([], usage=exchange.usage)
    yield "data: [DONE]\n\n"


def _choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


class Told:
    """What of one answer was sent; with tools, what may become a call is kept back."""

    def __init__(self, tools: list[dict[str, Any]] | None):
        self._tools, self._text, self._sent, self.called = tools, "", 0, False

    def add(self, new: str, last: bool) -> list[dict[str, Any]]:
        """The deltas to send for `new` text."""
        self._text += new
        end = len(self._text)
        calls: list[dict[str, Any]] = []
        if self._tools and last:
            _, calls = tool_calls.parse(self._text, self._tools)
            end = self._sent if calls else end
        elif self._tools:
            place = tool_calls.may_begin(self._text, self._sent)
            end = end if place is None else place
        deltas: list[dict[str, Any]] = []
        if end > self._sent:
            deltas.append({"content": self._text[self._sent : end]})
            self._sent = end
        if calls:
            self.called = True
            listed = [{"index": i} | call for i, call in enumerate(calls)]
            deltas.append({"tool_calls": listed})
        return deltas
