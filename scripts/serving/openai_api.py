"""/v1/models, /v1/chat/completions, /v1/completions, /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from serving import api_requests, prometheus
from serving.answer_exchange import Exchange
from serving.api_errors import ApiError, responses
from serving.api_requests import ChatRequest, CompletionRequest
from serving.service import Service

SLACK = 30  # seconds beyond its time in which a client may take the end of a stream
LARGE = 1 << 16  # bytes of a body above which its tokens are counted beside the event loop
ANSWERED = {200: "The answer, or its stream of events", 404: "No such model", 429: "Too many wait",
            500: "The answer failed", 503: "Loading, draining, or too busy",
            504: "It took too long"}  # fmt: skip
REFERENCE = "#/components/schemas/{model}"
router = APIRouter()


class State(BaseModel):
    """The answer to a probe."""

    status: str


def service_of(request: Request) -> Service:
    """The Service that create_app was given."""
    return request.app.state.service


@router.get("/health", responses={500: {"model": State}} | responses({200: "It works"}))
async def health(request: Request) -> State:
    """200 while the process works, loading or draining too; 500 when its model is broken."""
    service = service_of(request)
    if service.broken:
        return JSONResponse({"status": "the model fails"}, 500)
    return State(status="ok")


@router.get("/ready", responses=responses({200: "Requests are answered", 503: "Not yet"}))
async def ready(request: Request) -> State:
    """200 when requests are answered, else 503."""
    service = service_of(request)
    service.check_open()
    if service.broken:
        raise ApiError(503, "not_ready", "not ready: the model fails", retry_after=5)
    return State(status="ready")


@router.get("/metrics", responses=responses({200: "Prometheus' text format"}),
            response_class=PlainTextResponse)  # fmt: skip
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


@router.get("/v1/models", responses=responses({200: "Every model"}))
async def list_models(request: Request) -> dict[str, Any]:
    """The base and its adapters."""
    service = service_of(request)
    return {"object": "list", "data": [_model(service, s) for s in service.catalog.served]}


@router.get("/v1/models/{name:path}", responses=responses({200: "It", 404: "No such model"}))
async def one_model(request: Request, name: str) -> dict[str, Any]:
    """One of the models."""
    service = service_of(request)
    return _model(service, await service.resolve(name))


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """The request's body as OpenAPI documents it; it is read by api_requests.read."""
    schema = {"$ref": REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("/v1/chat/completions", responses=responses(ANSWERED, streams=True),
             openapi_extra=_takes(ChatRequest), response_model=None)  # fmt: skip
async def chat(request: Request) -> Response:
    """The answer to messages: whole, or as a stream of events."""
    return await _answer(request, ChatRequest)


@router.post("/v1/completions", responses=responses(ANSWERED, streams=True),
             openapi_extra=_takes(CompletionRequest), response_model=None)  # fmt: skip
async def complete(request: Request) -> Response:
    """The continuation of a text: whole, or as a stream of events."""
    return await _answer(request, CompletionRequest)


async def _answer(request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
    service = service_of(request)
    request.state.model = ""  # what the request is counted under, once that is known
    try:
        if service.relays:
            return await service.relay(request)
        exchange = await _begin(request, service, kind)
    except Exception as error:
        status = 499 if isinstance(error, ClientDisconnect) else getattr(error, "status", 500)
        service.count(request.state.model, str(status))
        raise
    if exchange.asked.stream:
        return Events(exchange)
    return await _whole(request, exchange)


async def _begin(request: Request, service: Service, kind: type) -> Exchange:
    """Read the request and submit it; ApiError for one that is refused."""
    body = await request.body()
    asked = api_requests.read(body, kind)
    served = await service.resolve(asked.model)
    request.state.model = served.id
    service.check_open()
    if len(body) > LARGE:
        prompts = await asyncio.to_thread(service.encode, asked, served)
    else:
        prompts = service.encode(asked, served)
    grammar = await asyncio.to_thread(service.grammar, asked, served) if asked.shaped else None
    return service.begin(asked, served, prompts, grammar)


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
        kind = exchange.form.whole
        return JSONResponse(_object(exchange, kind, choices, usage=exchange.usage))
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
    return [
        exchange.form.choice(i, answer, texts[answer], ends[answer])
        for i, answer in enumerate(exchange.answers)
    ]


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
    form, counted = exchange.form, exchange.asked.counted
    streams = {answer: form.stream() for answer in exchange.answers}
    blank = {"usage": None} if counted else {}

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        chunk = _object(exchange, form.chunk, choices, **(blank | more))
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    index = {answer: i for i, answer in enumerate(exchange.answers)}
    opening = [choice for i in index.values() for choice in form.opening(i)]
    yield "".join(event([choice]) for choice in opening)
    try:
        while exchange.open:
            lines = []
            for piece in await exchange.pieces():
                i, answer = index[piece.answer], piece.answer
                for choice in streams[answer].add(i, answer, piece.text, piece.tokens,
                                                  piece.finish):  # fmt: skip
                    lines.append(event([choice]))
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
