"""The training API: plan, start, follow and stop a training over HTTP.

    POST /api/v1/training/run      without a token the plan and its token (200); with it 202
    GET  /api/v1/training/status   every run, from its folder; ?run=ID names one
    GET  /api/v1/training/events   server-sent events; Last-Event-ID continues where it broke off
    POST /api/v1/training/stop     ends the run after its step, with a checkpoint
    GET  /api/v1/models            the versions there are

Errors: {"error": {"message", "type", "param", "code"}}. 400 wrong, 404 no such run, 409 one runs
already (or none), 412 the plan is stale, 422 the plan names obstacles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from dashboard import training_jobs as jobs
from dashboard import training_models as models
from dashboard import training_runs as runs
from dashboard.training_events import Follower, message
from dashboard.training_plans import Plans, Wish
from serving import api_errors
from serving.api_errors import ApiError

router = APIRouter(prefix="/api/v1", default_response_class=JSONResponse)
_following = {"count": 0}  # event streams that are open
POLL = 0.5  # seconds between two looks at the files
SILENCE = 15.0  # seconds after which a comment keeps the connection alive
STREAMS = 32  # connections that may follow at once


RUN_ANSWERS = {200: "The plan and its token", 202: "The training has begun", 404: "No such run",
               409: "A training runs, or the run cannot be resumed", 412: "The plan is stale",
               422: "The plan names obstacles", 500: "The plan could not be made"}  # fmt: skip
STATUS_ANSWERS = {200: "The runs", 404: "No such run"}
EVENT_ANSWERS = {200: "Server-sent events", 404: "No such run", 429: "Too many streams"}
STOP_ANSWERS = {202: "It ends", 404: "No such run", 409: "No training runs"}


class RunRequest(BaseModel):
    """What to train, as lora_trainer.py's options; with `token`, the plan that is confirmed."""

    model_config = ConfigDict(extra="forbid")
    config: Annotated[str, Field(max_length=200)] = "training_config.yaml"
    overrides: Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=100)] = []
    resume: Annotated[str, Field(max_length=128)] | None = None
    token: Annotated[str, Field(max_length=200)] | None = None

    def wish(self) -> Wish:
        return Wish(self.config, tuple(self.overrides), self.resume)


class StopBody(BaseModel):
    """Which run to stop; `now` does not wait for the checkpoint."""

    model_config = ConfigDict(extra="forbid")
    run: Annotated[str, Field(max_length=128)] | None = None
    now: bool = False


@router.post("/training/run", responses=api_errors.responses(RUN_ANSWERS))
def run(request: Request, wanted: RunRequest) -> JSONResponse:
    """Without a token: the plan and its token. With one: begin that training."""
    plans: Plans = request.app.state.plans
    if wanted.token is None:
        return JSONResponse(plans.make(wanted.wish()).body())
    more = wanted.model_fields_set - {"token"}
    if more and wanted.wish() != plans.get(wanted.token).wish:
        text = "the token is of another plan than this request"
        raise ApiError(412, "stale_plan", text, "send the token alone, or plan again")
    return JSONResponse(plans.start(wanted.token), 202)


@router.get("/training/status", responses=api_errors.responses(STATUS_ANSWERS))
def status(
    run: Annotated[str | None, Query(max_length=128)] = None,
    lines: Annotated[int, Query(ge=0, le=1000)] = 40,
) -> JSONResponse:
    """The run asked for, or the current one, and every run in short."""
    return JSONResponse(state(run, lines))


@router.get("/training/events", response_class=StreamingResponse,
            responses=api_errors.responses(EVENT_ANSWERS, streams=True))  # fmt: skip
async def events(
    request: Request,
    run: Annotated[str | None, Query(max_length=128)] = None,
    after: Annotated[str, Query(max_length=300)] = "",
    last_event_id: Annotated[str, Header(max_length=300)] = "",
) -> StreamingResponse:
    """What a run writes from now on, as server-sent events."""
    if run:
        await run_in_threadpool(runs.folder, run)
    if _following["count"] >= STREAMS:
        text = f"{STREAMS} clients follow already"
        raise ApiError(429, "too_many_streams", text, "close one")
    follower = Follower(run, last_event_id or after)
    closing: Callable[[], bool] = request.app.state.closing

    async def stream() -> AsyncIterator[str]:
        _following["count"] += 1
        try:
            async for text in follow(follower, closing):
                yield text
        finally:
            _following["count"] -= 1

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.post("/training/stop", status_code=202, responses=api_errors.responses(STOP_ANSWERS))
def stop(wanted: StopBody | None = None) -> JSONResponse:
    """End the run that trains after its step, with a checkpoint."""
    wanted = wanted or StopBody()
    return JSONResponse(jobs.stop(wanted.run, wanted.now), 202)


@router.get("/models", responses=api_errors.responses({200: "Every version"}))
def versions() -> JSONResponse:
    """Every adapter version with its metrics, gate and canary."""
    return JSONResponse({"models": models.everything()})


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
        except ApiError:  # the run's folder was deleted
            return
        for event in events:
            silent = 0.0
            yield message(event)
        if silent >= SILENCE:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL)
        silent += POLL
