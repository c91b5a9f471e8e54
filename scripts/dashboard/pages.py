"""The page's routes: everything it shows is rendered here, and every action is a plain form."""

from __future__ import annotations

import datetime
import hmac
import shlex
import socket
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from adapters import metrics
from dashboard import chart, comparison, guard, training_events
from dashboard import training_jobs as jobs
from dashboard import training_models as models
from dashboard import training_runs as runs
from dashboard.training_errors import Refused, status_of
from dashboard.training_plans import DRY_RUN_REMEDY, FIRST_YES, Plan, Plans, Wish, from_root
from kit import console, paths

HERE = Path(__file__).resolve().parent
OTHERS = 30  # earlier runs that are listed
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
# the new-run form's fields for what people change most: (key, label, hint)
USUAL = (
    ("training.num_train_epochs", "Epochs", "3"),
    ("training.learning_rate", "Learning rate", "2e-4"),
    ("lora.r", "LoRA rank", "16"),
    ("data.max_samples", "Rows at most", "all"),
)


def when(seconds: float | None) -> str:
    """Unix seconds as '2026-11-21 08:15 UTC'."""
    if not seconds:
        return "–"
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def about(seconds: float | None) -> str:
    """A length of time for people: 'under a minute', '12 min', '3 h 05 min'."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 4) -> str:
    """A measured number with so many significant digits, or a dash."""
    return "–" if value is None else f"{value:,.{digits}g}"


class Pages:
    """Renders the page from what lies on disk; keeps nothing itself."""

    def __init__(self, plans: Plans, server: comparison.ModelServer, token: str | None = None):
        self.plans, self.server, self.token = plans, server, token
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {
            "when": when, "about": about, "number": number, "size": console.size,
            "duration": console.duration, "command": shlex.join,
        }  # fmt: skip
        self.templates.globals |= {
            "metric_label": metrics.label,
            "USUAL": USUAL,
            "FIRST_YES": FIRST_YES,
        }

    def render(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        """A template as a response; its forms carry this browser's token."""
        token = guard.token(request)
        text = self.templates.get_template(name).render(
            csrf=token, machine=socket.gethostname(), workdir=str(paths.workdir()), **values
        )
        response = HTMLResponse(text, status)
        response.set_cookie(guard.csrf_cookie(request), token, httponly=True, samesite="lax")
        return response

    def run_values(self, run_id: str | None) -> dict[str, Any]:
        """What the run's section shows."""
        folder = runs.folder(run_id) if run_id else runs.current()
        if folder is None:
            return {"run": None, "followed": None, "event_id": ""}
        event_id = training_events.here(folder)  # first: what comes later is an event
        run = runs.snapshot(folder, lines=60)
        return {
            "run": run,
            "event_id": event_id,
            "followed": run_id,
            "now": time.time(),
            "curve": chart.draw(runs.metrics(folder), run["max_steps"]),
            "commands": commands(run, folder),
            "where": from_root(folder),
        }

    def index(self, request: Request, run_id: str | None = None, status: int = 200,
              **values: Any) -> Response:  # fmt: skip
        """The one page. values: error, answers, asked, wished."""
        everything = runs.everything()
        others = [
            {"id": r.name, "state": runs.state(r)[0], "began": runs.began(r)[0]}
            for r in everything[:OTHERS]
        ]
        values = {"error": "", "answers": [], "asked": {}, "wished": {}} | values
        return self.render(
            request, "index.html", status, others=others, count=len(everything),
            training=runs.active() is not None, versions=models.everything(),
            server=self.server.describe(), serve=comparison.serve_command,
            configurations=jobs.configurations(), **self.run_values(run_id), **values,
        )  # fmt: skip

    def error(self, request: Request, status: int, message: str) -> Response:
        """The page that says what went wrong, and the way back."""
        return self.render(request, "error.html", status, message=message, code=status)

    def router(self) -> APIRouter:
        """The page's addresses."""
        r = APIRouter(default_response_class=HTMLResponse)
        r.add_api_route("/", self.get_index, response_model=None)
        r.add_api_route("/login", self.get_login, response_model=None)
        r.add_api_route("/live", self.get_live, response_model=None)
        r.add_api_route("/plan", self.get_plan, response_model=None)
        r.add_api_route("/runs/{run_id}/report", self.get_report, response_model=None)
        r.add_api_route("/runs/{run_id}/log", self.get_log, response_model=None)
        for path, action in (
            ("/login", self.post_login),
            ("/plan", self.post_plan), ("/run", self.post_run), ("/stop", self.post_stop),
            ("/try", self.post_try), ("/serve", self.post_serve),
            ("/serve/stop", self.post_serve_stop),
        ):  # fmt: skip
            r.add_api_route(path, self._posted(action), methods=["POST"], response_model=None)
        return r

    def _posted(self, action):
        """A route for a form: its token is checked, then `action(request, fields)` runs."""

        async def route(request: Request) -> Response:
            fields = await guard.form(request)
            return await run_in_threadpool(action, request, fields)

        return route

    # --- what is shown

    def get_index(self, request: Request, run: str | None = None) -> Response:
        return self.index(request, run or None)

    def get_login(self, request: Request) -> Response:
        return self.render(request, "login.html", wrong=False)

    def get_live(self, request: Request, run: str | None = None) -> Response:
        """The parts of the page that change by themselves; the script puts them in place."""
        values = self.run_values(run or None)
        return self.render(request, "live.html", server=self.server.describe(), **values)

    def get_plan(self, request: Request, token: str) -> Response:
        return self.plan(request, self.plans.get(token))

    def plan(self, request: Request, plan: Plan) -> Response:
        """The plan with its confirmation."""
        again = plan.wish.words("--dry-run")
        return self.render(
            request, "plan.html", plan=plan, body=plan.body(), remedy=DRY_RUN_REMEDY,
            confirmed=shlex.join([jobs.PYTHON, *plan.wish.words("--confirm-run")]),
            planned=shlex.join([jobs.PYTHON, *again]),
            checkpoint=self._checkpoint(plan.wish),
        )  # fmt: skip

    def _checkpoint(self, wish: Wish) -> str:
        """The checkpoint that a resumed run goes on from; '' for a new run."""
        if not wish.resume:
            return ""
        found = runs.run_folder.last_checkpoint(runs.folder(wish.resume))
        return found.name if found else "the beginning: it has no checkpoint yet"

    def get_report(self, run_id: str) -> Response:
        """The evaluation's own page, with no power over this one."""
        file = runs.folder(run_id) / "report.html"
        if not file.is_file():
            raise Refused(404, "no_report", f"{run_id} has no report", "scripts/eval.py makes one")
        headers = {"content-security-policy": REPORT_POLICY}
        return HTMLResponse(file.read_bytes(), headers=headers)

    def get_log(self, run_id: str) -> Response:
        """The whole log as text."""
        for name in ("log.txt", "output.txt"):
            file = runs.folder(run_id) / name
            if file.is_file():
                return PlainTextResponse(file.read_bytes())
        raise Refused(404, "no_log", f"{run_id} has no log yet")

    # --- what is done

    def post_login(self, request: Request, fields: dict[str, str]) -> Response:
        """Keep a proof of the right token in this browser."""
        given = fields.get("token", "").strip()
        if not self.token or not hmac.compare_digest(given.encode(), self.token.encode()):
            return self.render(request, "login.html", 401, wrong=True)
        response = RedirectResponse("/", 303)
        name = guard.cookie_name(request.headers["host"], "key")
        response.set_cookie(name, guard.proof(self.token), httponly=True, samesite="lax")
        return response

    def post_plan(self, request: Request, fields: dict[str, str]) -> Response:
        try:
            plan = self.plans.make(wish_of(fields))
        except console.Problem as problem:
            status, _ = status_of(problem)
            return self.index(request, None, status, error=str(problem), wished=fields)
        return RedirectResponse(f"/plan?token={plan.token}", 303)

    def post_run(self, request: Request, fields: dict[str, str]) -> Response:
        begun = self.plans.start(fields.get("token", ""))
        return RedirectResponse(f"/?run={begun['run_id']}#run", 303)

    def post_stop(self, request: Request, fields: dict[str, str]) -> Response:
        stopping = jobs.stop(fields.get("run") or None)
        return RedirectResponse(f"/?run={stopping['run_id']}#run", 303)

    def post_try(self, request: Request, fields: dict[str, str]) -> Response:
        prompt = fields.get("prompt", "").strip()
        if not prompt:
            return self.index(request, None, 400, error="write a prompt first", asked=fields)
        try:
            options = {"max_tokens": int(fields.get("max_tokens") or 128),
                       "temperature": float(fields.get("temperature") or 0)}  # fmt: skip
        except ValueError:
            return self.index(request, None, 400, error="tokens and temperature are numbers",
                              asked=fields)  # fmt: skip
        pair = (fields.get("left", ""), fields.get("right", ""))
        try:
            answers = self.server.ask_both(pair, prompt, **options)
        except Refused as refused:
            return self.index(request, None, refused.status, error=str(refused), asked=fields)
        return self.index(request, answers=answers, asked=fields)

    def post_serve(self, request: Request, fields: dict[str, str]) -> Response:
        self.server.start(fields.get("reference", ""))
        return RedirectResponse("/#try", 303)

    def post_serve_stop(self, request: Request, fields: dict[str, str]) -> Response:
        self.server.stop()
        return RedirectResponse("/#try", 303)


def wish_of(fields: dict[str, str]) -> Wish:
    """The new-run form's fields, or the resume button's, as a Wish."""
    if fields.get("resume"):
        return Wish(resume=fields["resume"])
    texts = [f"{key}={fields[key].strip()}" for key, _, _ in USUAL if fields.get(key, "").strip()]
    texts += [line.strip() for line in fields.get("overrides", "").split("\n") if line.strip()]
    if fields.get("first_yes"):
        texts.append(FIRST_YES)
    return Wish(fields.get("config", "training_config.yaml"), tuple(dict.fromkeys(texts)))


def commands(run: dict[str, Any], folder: Path) -> dict[str, str]:
    """The command line that does the same as each button of the run's section."""
    where = from_root(folder)
    resume = Wish(resume=run["id"]).words("--confirm-run")
    return {
        "follow": f"tail -f {shlex.quote(f'{where}/log.txt')}",
        "status": shlex.join(["cat", f"{where}/status.json"]),
        "stop": f"kill -TERM {run['pid']}" if run["pid"] else "",
        "resume": shlex.join([jobs.PYTHON, *resume]),
        "evaluate": shlex.join([jobs.PYTHON, "scripts/eval.py", "--model", run["id"],
                                "--dataset", "data/processed/val_sft.jsonl"]),
        "register": shlex.join([jobs.PYTHON, "scripts/checkpoint_manager.py", "register",
                                run["id"], "--name", "mapper-lora"]),
    }  # fmt: skip
