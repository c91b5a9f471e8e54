"""Who may talk to the panel: a browser's page of the panel itself, and programs on this machine.

Host      must be a loopback name, else a foreign name was pointed here (DNS rebinding)
Origin    of a request that changes something must be the panel's own
API       takes application/json alone, which no foreign page can send without asking first
forms     bring the token of the panel's cookie (double submit), which no foreign page can read
size      a request's body is bounded
token     where one is set: in the header (programs) or, after /login, in a cookie (browsers);
          for a machine on which others have accounts
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response

from dashboard.training_errors import Refused
from serving.errors import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 256 << 10  # bytes of a request's body
SAFE = ("GET", "HEAD", "OPTIONS")
FIELD = "csrf"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware: refuses what must not come in, and gives every answer its headers."""

    def __init__(self, app: Callable[..., Awaitable[None]], token: str | None = None):
        self.app, self.token = app, token

    async def __call__(self, scope: dict[str, Any], receive, send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                return  # there is none
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers = Headers(scope=scope)
            check(scope["method"], scope["path"], headers)
            if self.token and not admitted(self.token, scope["path"], headers):
                await self._unknown(scope["path"])(scope, receive, send_guarded)
                return
            receive = await bounded(scope, receive)
        except Refused as refused:
            said = ApiError(refused.status, str(refused), refused.reason).response()
            await said(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def _unknown(self, path: str) -> Response:
        """For a program the error, for a browser the way to /login."""
        if not path.startswith("/api/"):
            return RedirectResponse("/login", 303)
        text = "the token is missing or wrong; send Authorization: Bearer TOKEN"
        return ApiError(401, text, "invalid_api_key").response()


def admitted(token: str, path: str, headers: Headers) -> bool:
    """Whether a request brings the token, or needs none."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return True
    cookies = cookie_parser(headers.get("cookie", ""))
    known = cookies.get(cookie_name(headers.get("host", ""), "key"), "")
    right = hmac.compare_digest(known.encode(), proof(token).encode())
    return right or path == "/login" or path.startswith("/static/")


def proof(token: str) -> str:
    """What a browser keeps in place of the token."""
    return hmac.new(token.encode(), b"tandem panel", "sha256").hexdigest()


def check(method: str, path: str, headers: Headers) -> None:
    """Refused where Host, Origin or content type are not ours."""
    host = headers.get("host", "")
    if _hostname(host) not in LOOPBACK:
        text = f"the panel does not answer to the name {host[:100]!r}"
        raise Refused(403, "foreign_host", text, "open it as http://127.0.0.1:PORT")
    if method in SAFE:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin not in (None, f"http://{host}") or site not in ("same-origin", "none"):
        text = "this request comes from another page"
        raise Refused(403, "foreign_origin", text, "reload the panel and press the button there")
    if path.startswith("/api/"):
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "not_json", "the API takes JSON", "content-type: application/json")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def bounded(scope: dict[str, Any], receive) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A `receive` that gives the whole body at once; 413 where it is too large."""
    if scope["method"] in SAFE:
        return receive
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return receive
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST:
            limit = f"{LARGEST >> 10} KB"
            raise Refused(413, "too_large", f"the request is larger than {limit}", "send less")
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> dict[str, Any]:
        return next(given, None) or await receive()

    return replay


def cookie_name(host: str, what: str) -> str:
    """A cookie of this panel: browsers share cookies between the ports of a host."""
    port = host.rpartition(":")[2]
    return f"tandem_{what}_{port if port.isdigit() else 80}"


def csrf_cookie(request: Request) -> str:
    """The name of the cookie that holds the forms' token."""
    return cookie_name(request.headers["host"], FIELD)


def token(request: Request) -> str:
    """The token that this browser's forms carry: its cookie's, or a new one."""
    known = request.cookies.get(csrf_cookie(request), "")
    if not (len(known) == 43 and known.isascii()):
        known = getattr(request.state, FIELD, "") or secrets.token_urlsafe(32)
    request.state.csrf = known
    return known


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; 403 where it does not carry the token of the cookie."""
    text = (await request.body()).decode("utf-8", "replace")
    fields = {k: v[-1] for k, v in parse_qs(text, keep_blank_values=True).items()}
    cookie = request.cookies.get(csrf_cookie(request), "")
    sent = fields.pop(FIELD, "")
    if not cookie or not secrets.compare_digest(sent.encode(), cookie.encode()):
        text = "the form is not of this page, or too old"
        raise Refused(403, "csrf", text, "reload the page and send it again")
    return fields
