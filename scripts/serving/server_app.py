"""The model server as a FastAPI application, and as a process that answers until a signal comes.

app = create_app(service, web.GuardRules(token=token))
run(catalog, sock, ServerOptions(token=token), announce=print)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from kit import console, paths
from serving import api_errors, api_requests, openai_api, web
from serving.service import Service, ServiceLimits, describe

PROBES = ("/health", "/ready")  # they need no token


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Who may ask, what the server bounds. hosts: names it answers to; None: any, with a token."""

    hosts: tuple[str, ...] | None = web.LOOPBACK
    token: str | None = None
    limits: ServiceLimits = ServiceLimits()
    drain: float = 30  # seconds to finish in after a signal
    engine: str = "own"  # or "vllm"
    references: tuple[str, ...] = ()  # the --checkpoint options: what their names may come to mean


def create_app(service: Service, rules: web.GuardRules) -> FastAPI:
    """The API of `service`, which begins to load when the server starts."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI):
        service.start()
        yield
        service.stop()

    app = FastAPI(title="Tandem model server", lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    api_errors.answer_errors(app)
    app.include_router(openai_api.router)
    app.add_middleware(web.RequestGuard, rules=rules)
    document = app.openapi()
    document["components"]["schemas"] |= api_requests.schemas(openai_api.REFERENCE)
    return app


def run(
    catalog: Any,
    sock: socket.socket,
    options: ServerOptions,
    announce: Callable[[dict[str, Any]], None],
) -> int:
    """Load, and answer on `sock` until a signal comes; the exit code.

    announce({"url", "models", "pid"}) is called once, when requests are answered.
    """
    url = f"http://{web.address_of(sock)}/v1"

    def changed(service: Service) -> None:
        if service.state == "failed":
            server.should_exit = True
        elif service.state == "ready":
            ids = [served.id for served in catalog.served]
            announce({"url": url, "models": ids, "pid": os.getpid()})

    limits, drain = options.limits, options.drain
    if options.engine == "vllm":
        from serving.vllm_front import VllmService as service_class
    else:
        service_class = Service
    service = service_class(catalog, limits, changed, options.references)
    rules = web.GuardRules(options.hosts, options.token, limits.body, PROBES)
    server = web.uvicorn_server(
        create_app(service, rules), busy=limits.rows + limits.queue + 64, drain=drain + 5,
        on_exit=lambda: service.drain(drain),
    )  # fmt: skip
    bits = [key[8:] for key in ("load_in_4bit", "load_in_8bit") if catalog.quantization[key]]
    base = " in ".join([paths.show(catalog.folder), *bits])
    console.say(f"loading {base}; {url} will answer")
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn passes the signal on
        server.run(sockets=[sock])
    if service.problem:
        raise describe(service.problem)
    if service.cut:
        text = f"{service.cut} requests were cut off after {drain} s"
        raise console.Problem(text, "--drain N")
    return console.GOOD
