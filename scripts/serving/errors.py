"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Ends a request with a status and OpenAI's error object.

    What a request said may be no Unicode (half of a surrogate pair): it is shown escaped.
    """

    def __init__(self, status: int, message: str, code: str | None = None,
                 param: str | None = None, retry_after: int | None = None):  # fmt: skip
        message, param = _printable(message), param and _printable(param)
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP answer."""
        return JSONResponse(self.body, self.status, self.headers)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def answer_in_form(app) -> None:
    """Make every error of the app come in this form, FastAPI's own too."""

    @app.exception_handler(ApiError)
    async def ours(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        told: dict[int, Any] = {
            404: (f"there is no {request.url.path} here; try /v1/models", "unknown_url"),
            405: (f"{request.url.path} does not take {request.method}", "method_not_allowed"),
        }
        message, code = told.get(error.status_code, (str(error.detail), None))
        found = ApiError(error.status_code, message, code)
        found.headers |= dict(error.headers or {})
        return found.response()

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, f"internal error: {type(error).__name__}", "internal").response()
