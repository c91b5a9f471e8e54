"""What the model server and the panel share: token, socket, guard, uvicorn (api_errors.py: errors).

token = web.read_token(args.token_file)
sock, loopback = web.listen(args.host, args.port, token)
app.add_middleware(web.RequestGuard, rules=web.GuardRules(token=token))
web.answer_errors(app)
web.uvicorn_server(app, busy=64, drain=30).run(sockets=[sock])
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kit import console
from serving.api_errors import API_PATHS, ApiError

if TYPE_CHECKING:  # imported where they are used: refusals to start need no Starlette
    from starlette.datastructures import Headers
    from starlette.responses import Response

TOKEN = "TANDEM_SERVER_TOKEN"
SHORTEST = 16  # characters of a token
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
READING = 30  # seconds in which a request's body must have arrived
SINGLE = ("host", "origin", "authorization", "content-type", "content-length", "sec-fetch-site")


# --- the token and the socket -----------------------------------------------------------------
def read_token(file: Path | None) -> str | None:
    """The token: from a file that only its owner can read, or from the variable."""
    if file is None:
        token, place = os.environ.get(TOKEN), TOKEN
    else:
        if file.stat().st_mode & 0o077:
            raise console.Misuse(f"others may read {file}", f"chmod 600 {file}")
        token, place = file.read_text(encoding="utf-8").strip(), str(file)
    if token is not None and (len(token) < SHORTEST or not token.isascii() or " " in token):
        fix = f"(umask 077; openssl rand -hex 32 > .credentials/server_token), {SHORTEST} or more"
        raise console.Misuse(f"{place}: no token of {SHORTEST} ASCII characters", fix)
    return token


def listen(host: str, port: int, token: str | None) -> tuple[socket.socket, bool]:
    """(listening socket, whether it is on loopback). Misuse without a token on other addresses."""
    if not 0 <= port <= 65535:
        raise console.Misuse(f"--port {port}", "a port is a number up to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise console.Misuse(f"--host {host}: no such address", "try 127.0.0.1") from None
    loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    if not loopback and not token:
        raise console.Misuse(
            f"{host} can be reached by others, and no token is set",
            f"give --token-file FILE or {TOKEN}, or keep 127.0.0.1 and use ssh -L {port}:",
        )
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        reason = error.strerror.lower() if error.strerror else str(error)
        text = f"{host}:{port}: {reason}"
        raise console.Problem(text, "end what listens there, or choose another --port") from None
    return sock, loopback


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def address_of(sock: socket.socket) -> str:
    """'127.0.0.1:8000', '[::1]:8000': where a socket listens, as it is written in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def uvicorn_server(app, *, busy: int, drain: float, on_exit: Callable[[], None] | None = None,
                   lifespan: str = "auto"):  # fmt: skip
    """A uvicorn.Server whose connections are bounded (serving/connections.py).

    busy: requests that may be answered at once; drain: seconds that it waits for them when it
    ends; on_exit: called in the signal handler, before the server stops listening.
    """
    import uvicorn

    from serving import connections

    class BoundedServer(uvicorn.Server):
        def handle_exit(self, sig, frame) -> None:
            if on_exit:
                on_exit()
            super().handle_exit(sig, frame)

    return BoundedServer(
        uvicorn.Config(
            app, http=connections.protocol(connections.room_for(busy)), log_level="error",
            access_log=False, server_header=False, proxy_headers=False, ws="none",
            lifespan=lifespan,
            timeout_graceful_shutdown=drain,
        )
    )  # fmt: skip


# --- the guard --------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class GuardRules:
    """Who may ask a server, and how.

    hosts: names by which browsers may call it (against DNS rebinding); None: any, which only a
    token makes safe. token: every request needs it; None: nobody does. body: the most bytes of a
    request. open_paths: they need no token. admitted(path, headers): another way to bring the
    token; stranger(path): the answer to a request without it, None for the JSON error. headers:
    added to every answer. codes: other words for a refusal's `code`.
    """

    hosts: tuple[str, ...] | None = LOOPBACK
    token: str | None = None
    body: int = 1 << 20
    open_paths: tuple[str, ...] = ()
    admitted: Callable[[str, Headers], bool] = lambda path, headers: False
    stranger: Callable[[str], Response | None] = lambda path: None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    codes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hosts is None and not self.token:
            raise ValueError("a server that answers to any name needs a token")


def _is_taken(scope: dict[str, Any]) -> bool:
    """Whether a route of the application takes that path and method; else it answers 404, 405."""
    from starlette.routing import Match

    app = scope.get("app")
    return app is None or any(r.matches(scope)[0] is Match.FULL for r in app.router.routes)


class RequestGuard:
    """ASGI middleware: refuses what must not come in, and reads the body within its bounds."""

    def __init__(self, app: Callable[..., Awaitable[None]], rules: GuardRules):
        self.app, self.rules = app, rules

    async def __call__(self, scope: dict[str, Any], receive, send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # websockets are not served
        from starlette.datastructures import Headers, MutableHeaders

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.rules.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers, path = Headers(scope=scope), scope["path"]
            self.check(scope, headers)
            if not self._knows_token(path, headers):
                await self._stranger(path)(scope, receive, send_with_headers)
                return
            receive = await self._read(scope["method"], receive)
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def check(self, scope: dict[str, Any], headers: Headers) -> None:
        """ApiError 400, 403, 413 or 415 for a request that must not pass."""
        method = scope["method"]
        for name in SINGLE:
            if len(headers.getlist(name)) > 1:
                raise self._refuse(400, "duplicate_header", f"more than one {name} header")
        host = headers.get("host", "").lower()
        if self.rules.hosts is not None and _hostname(host) not in _lower(self.rules.hosts):
            text = f"this server does not answer to the name {host[:100]!r}"
            raise self._refuse(403, "host_not_allowed", text, "open it as http://127.0.0.1:PORT")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = method not in SAFE_METHODS and site not in ("same-origin", "none")
        if foreign or (origin is not None and _netloc(origin) != host):
            text = "requests from other web pages are not answered"
            raise self._refuse(403, "origin_not_allowed", text)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self.rules.body:
            raise self._too_large()
        if method == "POST" and scope["path"].startswith(API_PATHS) and _is_taken(scope):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            # a foreign page must ask before it sends that type, or any method but GET and POST
            if kind != "application/json":
                text = "send Content-Type: application/json"
                raise self._refuse(415, "unsupported_media_type", text)

    def _knows_token(self, path: str, headers: Headers) -> bool:
        """Whether a request brings the token, or needs none."""
        token = self.rules.token
        if not token or path in self.rules.open_paths:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), token.encode())
        return (kind.lower() == "bearer" and same) or self.rules.admitted(path, headers)

    def _stranger(self, path: str) -> Response:
        text = "the token is missing or wrong"
        error = self._refuse(401, "invalid_api_key", text, "send Authorization: Bearer TOKEN")
        return self.rules.stranger(path) or error.response()

    async def _read(self, method: str, receive) -> Callable[[], Awaitable[dict[str, Any]]]:
        """A `receive` that gives the whole body at once; 413 too large, 408 too slow."""
        if method in SAFE_METHODS:
            return receive
        body = bytearray()

        async def collect() -> bool:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                body.extend(message.get("body", b""))
                more = message.get("more_body", False)
                if len(body) > self.rules.body:
                    raise self._too_large()
            return True

        try:
            whole = await asyncio.wait_for(collect(), READING)
        except asyncio.TimeoutError:
            text = f"the body did not arrive within {READING} s"
            raise self._refuse(408, "timeout", text) from None
        first = {"type": "http.request", "body": bytes(body), "more_body": False}
        given = iter([first if whole else {"type": "http.disconnect"}])

        async def replay() -> dict[str, Any]:
            return next(given, None) or await receive()

        return replay

    def _too_large(self) -> ApiError:
        text = f"a request has at most {self.rules.body:,} bytes"
        return self._refuse(413, "request_too_large", text, "send less")

    def _refuse(self, status: int, code: str, text: str, remedy: str = "") -> ApiError:
        return ApiError(status, self.rules.codes.get(code, code), text, remedy)


def _lower(names: tuple[str, ...]) -> set[str]:
    return {name.lower() for name in names}


def _hostname(host: str) -> str | None:
    """'[::1]:8000' -> '::1', 'localhost:8000' -> 'localhost'; None for what is no host."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.%]+)\]|([^\[\]:/?#@\\\s]+))(?::\d{1,5})?", host)
    return match and (match[1] or match[2])


def _netloc(origin: str) -> str | None:
    """'http://LOCALHOST:8000' -> 'localhost:8000'; None for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
