"""The training API: plan, start, follow and stop a training over HTTP.

    POST /api/v1/training/run      without a token the plan and its token (200); with it 202
    GET  /api/v1/training/status   every run, from its folder; ?run=ID names one
    GET  /api/v1/training/events   server-sent events; Last-Event-ID goes on where it broke off
    POST /api/v1/training/stop     ends the run after its step, with a checkpoint
    GET  /api/v1/models            the versions there are

Errors: {"error": {"message", "type", "param", "code"}}. 400 wrong, 404 no such run, 409 one runs
already (or none), 412 the plan is stale, 422 the plan names obstacles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from dashboard import training_jobs as jobs
from dashboard import training_models as models
from dashboard import training_runs as runs
from dashboard.training_errors import Refused
from dashboard.training_events import Follower, message
from dashboard.training_plans import Plans, Wish

POLL = 0.5  # seconds between two looks at the files
SILENCE = 15.0  # seconds after which a comment keeps the connection alive
STREAMS = 32  # connections that may follow at once


class RunRequest(BaseModel):
    """What to train, as lora_trainer.py's options; with `token`, the plan that is confirmed."""

    model_config = ConfigDict(extra="forbid")
    config: Annotated[str, Field(max_length=200)] = "training_config.yaml"
    overrides: Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=100)] = []
    resume: Annotated[str, Field(max_length=128)] | None = None
    token: Annotated[str, Field(max_length=200)] | None = None

    def wish(self) -> Wish:
        return Wish(self.config, tuple(self.overrides), self.resume)


class StopRequest(BaseModel):
    """Which run to stop; `now` does not wait for the checkpoint."""

    model_config = ConfigDict(extra="forbid")
    run: Annotated[str, Field(max_length=128)] | None = None
    now: bool = False


def router(plans: Plans, closing: Callable[[], bool] = lambda: False) -> APIRouter:
    """The API's routes; `closing` says that the server ends, which ends the event streams."""
    api = APIRouter(prefix="/api/v1")
    following = {"count": 0}

    @api.post("/training/run", response_model=None)
    def run(request: RunRequest) -> JSONResponse:
        if request.token is None:
            return JSONResponse(plans.make(request.wish()).body())
        said = request.model_fields_set - {"token"}
        if said and request.wish() != plans.get(request.token).wish:
            text = "the token is of another plan than this request"
            raise Refused(412, "stale_plan", text, "send the token alone, or plan again")
        return JSONResponse(plans.start(request.token), 202)

    @api.get("/training/status", response_model=None)
    def status(
        run: Annotated[str | None, Query(max_length=128)] = None,
        lines: Annotated[int, Query(ge=0, le=1000)] = 40,
    ) -> JSONResponse:
        return JSONResponse(state(run, lines))

    @api.get("/training/events", response_model=None)
    async def events(
        run: Annotated[str | None, Query(max_length=128)] = None,
        after: Annotated[str, Query(max_length=300)] = "",
        last_event_id: Annotated[str, Header(max_length=300)] = "",
    ) -> StreamingResponse:
        if run:
            await run_in_threadpool(runs.folder, run)
        if following["count"] >= STREAMS:
            raise Refused(429, "too_many_streams", f"{STREAMS} clients follow already", "close one")
        follower = Follower(run, last_event_id or after)

        async def stream() -> AsyncIterator[str]:
            following["count"] += 1
            try:
                async for text in follow(follower, closing):
                    yield text
            finally:
                following["count"] -= 1

        return StreamingResponse(stream(), media_type="text/event-stream")

    @api.post("/training/stop", response_model=None)
    def stop(request: StopRequest | None = None) -> JSONResponse:
        request = request or StopRequest()
        return JSONResponse(jobs.stop(request.run, request.now), 202)

    @api.get("/models", response_model=None)
    def versions() -> JSONResponse:
        return JSONResponse({"models": models.everything()})

    return api


def state(run: str | None, lines: int) -> dict[str, Any]:
    """{"training": bool, "run": the one asked for or the current one, "runs": all in short}."""
    shown = runs.folder(run) if run else runs.current()
    short = [{"id": r.name, "state": runs.state(r)[0]} for r in runs.everything()]
    return {
        "training": any(r["state"] in runs.ACTIVE for r in short),
        "run": runs.snapshot(shown, lines) if shown else None,
        "runs": short,
    }


async def follow(follower: Follower, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Messages of an event stream until the client goes or the server closes."""
    yield "retry: 2000\n\n"
    silent = 0.0
    while not closing():
        try:
            events = await run_in_threadpool(lambda: list(follower.poll()))
        except Refused:  # the run's folder was deleted
            return
        for event in events:
            silent = 0.0
            yield message(event)
        if silent >= SILENCE:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL)
        silent += POLL
