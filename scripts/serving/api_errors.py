"""The one form in which both servers refuse: {"error": {"message", "type", "param", "code"}}.

raise ApiError(404, "model_not_found", "there is no model x", "served: a, b", param="model")
answer_errors(app)                                  every error of the app comes in this form
@router.get("/x", responses=responses({200: "…"}))  and its OpenAPI says so
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from kit import console

if TYPE_CHECKING:
    from starlette.responses import JSONResponse, Response

API_PATHS = ("/api/", "/v1/", "/openapi.json")  # what is asked there is answered as JSON
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(console.Problem):
    """Ends a request with an HTTP status and OpenAI's error object; `reason` is its `code`.

    What a request said can be no Unicode, or hold control characters: both are shown escaped.
    """

    def __init__(
        self,
        status: int,
        reason: str | None,
        text: str,
        remedy: str = "",
        *,
        param: str | None = None,
        retry_after: int | None = None,
        **facts: Any,
    ):
        super().__init__(console.printable(text), console.printable(remedy))
        self.status, self.reason, self.facts = status, reason, facts
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        error = {"message": str(self), "type": kind, "param": param and console.printable(param),
                 "code": reason}  # fmt: skip
        self.body = {"error": error | facts}

    def response(self) -> JSONResponse:
        """The error as an HTTP answer."""
        from starlette.responses import JSONResponse

        return JSONResponse(self.body, self.status, self.headers)


def as_api_error(problem: console.Problem) -> ApiError:
    """Any Problem as an ApiError: 400 for a wrong request, else 500."""
    if isinstance(problem, ApiError):
        return problem
    status, reason = (400, "misuse") if problem.code == console.MISUSED else (500, "failed")
    return ApiError(status, reason, problem.text, problem.remedy)


def answer_errors(app, page: Callable[[Any, ApiError], Response] | None = None) -> None:
    """Give every error of a FastAPI app this form, FastAPI's own too.

    page(request, error): what is answered outside API_PATHS, for people; None: the same JSON.
    """
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    def answer(request, error: ApiError) -> Response:
        path = request.url.path
        if page and not path.startswith((*API_PATHS, "/static/")):
            return page(request, error)
        return error.response()

    def http(request, error: HTTPException) -> Response:
        path = request.url.path
        known = {
            404: ("unknown_url", f"there is no {path} here", "/openapi.json lists what there is"),
            405: ("method_not_allowed", f"{path} does not take {request.method}"),
        }
        refusal = ApiError(error.status_code,
                           *known.get(error.status_code, (None, str(error.detail))))  # fmt: skip
        refusal.headers |= dict(error.headers or {})
        return answer(request, refusal)

    def disk(request, error: OSError) -> Response:
        text = f"{error.filename or 'a file'}: {error.strerror or error}"
        return answer(request, ApiError(500, "failed", text))

    def bug(request, error: Exception) -> Response:
        return answer(request, ApiError(500, "internal", f"internal error: {type(error).__name__}"))

    handlers = {
        console.Problem: lambda request, error: answer(request, as_api_error(error)),
        RequestValidationError: lambda request, error: answer(request, _invalid(error)),
        HTTPException: http, OSError: disk, Exception: bug,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


class ErrorObject(BaseModel):
    """What went wrong, in OpenAI's form; a refusal may add facts."""

    model_config = ConfigDict(extra="allow")
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorObject


ALWAYS = {400: "A wrong request", 401: "No token, or a wrong one", 403: "Not from here",
          408: "The request did not arrive in time", 413: "Too large", 415: "Not JSON",
          431: "Its head is too large", 503: "Too busy, or not ready"}  # fmt: skip


def responses(
    known: Mapping[int, str], *, streams: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The answers of a route, {status: description}, as its OpenAPI documents them.

    streams: its 200 can be a stream of server-sent events.
    """
    listed: dict[int | str, dict[str, Any]] = {
        status: {"description": text} for status, text in known.items()
    }
    if streams:
        listed[200]["content"] = {"text/event-stream": {}}
    for status, text in (ALWAYS | dict(known)).items():
        if status >= 400:
            listed[status] = {"description": text, "model": ErrorBody}
    return listed


def _invalid(error) -> ApiError:
    """The first thing wrong with a request that FastAPI refused."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "not_json", "the body is not JSON", "correct it")
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return ApiError(400, "invalid", f"{where or 'body'}: {first['msg']}")
