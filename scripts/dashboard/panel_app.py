"""The panel as a FastAPI application: the page, the training API, the form of their errors."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from dashboard import browser_safety, pages, training_api
from dashboard.comparison import ComparedServer
from dashboard.training_plans import Plans
from serving import api_errors, web

BUSY = 96  # requests that are answered at once, event streams among them


def create_app(
    server: str | None = None,
    token: str | None = None,
    closing: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The ASGI application.

    server: a model server's address; token: what every request must bring, and what the model
    server is asked with; closing: whether the process ends, which ends the event streams.
    """
    app = FastAPI(title="Tandem panel", docs_url=None, redoc_url=None)
    app.state.plans = Plans()
    app.state.closing = closing
    app.state.server = ComparedServer(server, token)
    app.state.token = token
    api_errors.answer_errors(app, pages.error)
    app.include_router(training_api.router)
    app.include_router(pages.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"))
    app.add_middleware(web.RequestGuard, rules=browser_safety.rules(token))
    return app
