"""What the panel adds to the common guard (serving/web.py) because browsers use it.

headers   a policy that runs no foreign script, and no framing of the page
forms     bring the token of the panel's cookie (double submit), which no foreign page can read
sign in   where a token is set: a cookie with a proof of it, after /login; programs send the token
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response

from serving import api_errors, web
from serving.api_errors import ApiError

LARGEST = 256 << 10  # bytes of a request's body
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
CODES = {  # the words that the training API has always used
    "host_not_allowed": "foreign_host", "origin_not_allowed": "foreign_origin",
    "request_too_large": "too_large", "unsupported_media_type": "not_json",
}  # fmt: skip


def rules(token: str | None) -> web.GuardRules:
    """Who may ask the panel: its own page in a browser, and programs on this machine."""

    def admitted(path: str, headers: Headers) -> bool:
        """Whether a browser has signed in, or asks for what it needs to do so."""
        cookies = cookie_parser(headers.get("cookie", ""))
        known = cookies.get(cookie_name(headers.get("host", ""), "key"), "")
        right = hmac.compare_digest(known.encode(), proof(token or "").encode())
        return right or path == "/login" or path.startswith("/static/")

    return web.GuardRules(token=token, body=LARGEST, admitted=admitted, stranger=_sign_in,
                          headers=HEADERS, codes=CODES)  # fmt: skip


def _sign_in(path: str) -> Response | None:
    """For a browser the way to /login; None, for a program, means the error."""
    machine = path.startswith((*api_errors.API_PATHS, "/openapi.json"))
    return None if machine else RedirectResponse("/login", 303)


def proof(token: str) -> str:
    """What a browser keeps in place of the token."""
    return hmac.new(token.encode(), b"tandem panel", "sha256").hexdigest()


def cookie_name(host: str, what: str) -> str:
    """A cookie of this panel: browsers share cookies between the ports of a host."""
    port = host.rpartition(":")[2]
    return f"tandem_{what}_{port if port.isdigit() else 80}"


def csrf_cookie(request: Request) -> str:
    """The name of the cookie that holds the forms' token."""
    return cookie_name(request.headers.get("host", ""), FIELD)


def csrf_token(request: Request) -> str:
    """The token that this browser's forms carry: its cookie's, or a new one."""
    known = request.cookies.get(csrf_cookie(request), "")
    if not (len(known) == 43 and known.isascii()):
        known = getattr(request.state, FIELD, "") or secrets.token_urlsafe(32)
    request.state.csrf = known
    return known


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; 403 where it does not carry the token of the cookie."""
    text = (await request.body()).decode("utf-8", "replace")
    try:  # browsers send the line ends of text areas as CR LF
        fields = {
            k: v[-1].replace("\r\n", "\n")
            for k, v in parse_qs(text, keep_blank_values=True).items()
        }
    except ValueError as error:
        raise ApiError(400, "invalid", f"the form cannot be read: {error}") from None
    cookie = request.cookies.get(csrf_cookie(request), "")
    sent = fields.pop(FIELD, "")
    if not cookie or not secrets.compare_digest(sent.encode(), cookie.encode()):
        text = "the form is not of this page, or too old"
        raise ApiError(403, "csrf", text, "reload the page and send it again")
    return fields
