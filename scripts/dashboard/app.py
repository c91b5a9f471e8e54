"""The panel's application: training API, page, and the form in which both say no."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.staticfiles import StaticFiles

from dashboard import guard, pages, training_api
from dashboard.comparison import ModelServer
from dashboard.training_errors import Refused, status_of
from dashboard.training_plans import Plans
from kit import console
from serving.errors import ApiError


def create_app(
    server: str | None = None,
    token: str | None = None,
    closing: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The ASGI application.

    server: a model server's address; token: what every request must bring, and what the model
    server is asked with; closing: whether the process ends, which ends the event streams.
    """
    app = FastAPI(title="Tandem", docs_url=None, redoc_url=None, openapi_url=None)
    plans = Plans()
    page = pages.Pages(plans, ModelServer(server, token), token)
    app.include_router(training_api.router(plans, closing))
    app.include_router(page.router())
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"))
    app.add_middleware(guard.Guard, token=token)

    def said(request: Request, status: int, message: str, reason: str | None = None, **facts):
        if not request.url.path.startswith(("/api/", "/static/")):
            return page.error(request, status, message)
        error = ApiError(status, message, reason)
        error.body["error"] |= facts
        return error.response()

    @app.exception_handler(console.Problem)
    def problem(request: Request, error: console.Problem) -> Response:
        status, reason = status_of(error)
        facts = error.facts if isinstance(error, Refused) else {}
        return said(request, status, str(error), reason, **facts)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        if first["type"] == "json_invalid":
            return said(request, 400, "the body is not JSON; mend it", "not_json")
        return said(request, 400, f"{where or 'body'}: {first['msg']}", "invalid")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        texts = {404: "there is nothing at this address", 405: "this address takes another method"}
        return said(request, error.status_code, texts.get(error.status_code, str(error.detail)))

    @app.exception_handler(OSError)
    def disk(request: Request, error: OSError) -> Response:
        text = f"{error.filename or 'a file'}: {error.strerror or error}"
        return said(request, 500, text, "failed")

    return app
