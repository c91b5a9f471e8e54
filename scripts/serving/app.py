"""The application: routers behind guards. A later room gives its own routers to create_app.

app = create_app(service, Guard(hosts, token), routers=[panel.router])
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI

from serving import errors, openai_api
from serving.errors import ApiError
from serving.service import Service

OPEN = ("/health", "/ready")  # for probes, which have no token
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Who may ask. token: every request but probes needs it; None: nobody does.

    hosts: names by which browsers may call this server (against DNS rebinding); None: any, which
    only a token makes safe. body: the most bytes a request may have.
    """

    def __init__(self, hosts: Iterable[str] | None = LOOPBACK, token: str | None = None,
                 body: int = 1 << 20):  # fmt: skip
        if hosts is None and not token:
            raise ValueError("a server that answers to any name needs a token")
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.token, self.body = token, body

    def check(self, path: str, headers: dict[bytes, bytes]) -> None:
        """ApiError 401, 403 or 413 for a request that must not pass."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise ApiError(403, f"this server does not answer to the name {host[:100]!r}",
                           "host_not_allowed")  # fmt: skip
        origin = headers.get(b"origin")
        if origin is not None and _place(origin.decode("latin-1")) != host.lower():
            raise ApiError(403, "requests from other web pages are not answered",
                           "origin_not_allowed")  # fmt: skip
        if self.token and path not in OPEN:
            given = headers.get(b"authorization", b"").partition(b" ")
            same = hmac.compare_digest(given[2].strip(), self.token.encode())
            if given[0].lower() != b"bearer" or not same:
                message = "the token is missing or wrong; send Authorization: Bearer TOKEN"
                raise ApiError(401, message, "invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request has at most {self.body:,} bytes", "request_too_large")

    def counted(self, receive):
        """`receive` that stops with ApiError 413 when more bytes come than were announced."""
        seen = 0

        async def counting():
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.body:
                raise self._too_large()
            return message

        return counting


def _name(host: str) -> str:
    """'[::1]:8000' -> '::1', 'LOCALHOST:8000' -> 'localhost'; '' for what is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str | None:
    """'http://LOCALHOST:8000' -> 'localhost:8000'; None for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class _Guarded:
    """The ASGI middleware of a Guard."""

    def __init__(self, app, guard: Guard):
        self.app, self.guard = app, guard

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            try:
                self.guard.check(scope["path"], dict(scope["headers"]))
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
            receive = self.guard.counted(receive)
        await self.app(scope, receive, send)


def create_app(service: Service, guard: Guard, routers: Iterable[APIRouter] = ()) -> FastAPI:
    """The API of `service`; it begins to load when the server starts."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI):
        service.start()
        yield
        service.stop()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    errors.answer_in_form(app)
    for router in (openai_api.router, *routers):
        app.include_router(router)
    app.add_middleware(_Guarded, guard=guard)
    return app
