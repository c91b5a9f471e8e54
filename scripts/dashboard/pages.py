"""The page's routes: everything it shows is rendered here, and every action is a plain form."""

from __future__ import annotations

import datetime
import hmac
import shlex
import socket
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from adapters import metrics
from dashboard import browser_safety, chart, comparison, training_events
from dashboard import training_jobs as jobs
from dashboard import training_models as models
from dashboard import training_runs as runs
from dashboard.training_plans import DRY_RUN_REMEDY, FIRST_YES, Wish, from_root
from kit import console, paths
from serving import api_errors
from serving.api_errors import ApiError

router = APIRouter(default_response_class=HTMLResponse)
FormFields = Annotated[dict[str, str], Depends(browser_safety.form)]
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
    try:
        moment = datetime.datetime.fromtimestamp(seconds or 0, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):  # no year of ours
        seconds = None
    if not seconds:
        return "–"
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def about(seconds: float | None) -> str:
    """A length of time for people: 'under a minute', '12 min', '3 h 05 min'."""
    if seconds is None or seconds > 1e9:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 4) -> str:
    """A measured number with so many significant digits, or a dash."""
    return "–" if value is None else f"{value:,.{digits}g}"


def finish(value: Any) -> Any:
    """What a template prints: control characters are shown as escapes, never sent."""
    if isinstance(value, Markup):
        return value
    return console.printable(value) if isinstance(value, str) else value


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, finalize=finish,
)  # fmt: skip
TEMPLATES.filters |= {
    "when": when, "about": about, "number": number, "size": console.size,
    "duration": console.duration, "command": shlex.join,
}  # fmt: skip
TEMPLATES.globals |= {"metric_label": metrics.label, "USUAL": USUAL, "FIRST_YES": FIRST_YES}


def render(request: Request, name: str, status: int = 200, **values: Any) -> Response:
    """A template as a response; its forms carry this browser's token."""
    token = browser_safety.csrf_token(request)
    text = TEMPLATES.get_template(name).render(
        csrf=token, machine=socket.gethostname(), workdir=str(paths.workdir()), **values
    )
    response = HTMLResponse(text, status)
    cookie = browser_safety.csrf_cookie(request)
    response.set_cookie(cookie, token, httponly=True, samesite="lax")
    return response


def error(request: Request, problem: ApiError) -> Response:
    """The page that says what went wrong, and the way back."""
    response = render(request, "error.html", problem.status, message=str(problem),
                      code=problem.status)  # fmt: skip
    response.headers.update(problem.headers)
    return response


def run_values(run_id: str | None) -> dict[str, Any]:
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
        "curve": Markup(chart.draw(runs.metrics(folder), run["max_steps"])),
        "commands": commands(run, folder),
        "where": from_root(folder),
    }


def index(request: Request, run_id: str | None = None, status: int = 200,
          **values: Any) -> Response:  # fmt: skip
    """The one page. values: error, answers, asked, wished."""
    everything = runs.everything()
    others = [
        {"id": r.name, "state": runs.state(r)[0], "began": runs.began(r)[0]}
        for r in everything[:OTHERS]
    ]
    values = {"error": "", "answers": [], "asked": {}, "wished": {}} | values
    return render(
        request, "index.html", status, others=others, count=len(everything),
        training=runs.active() is not None, versions=models.everything(),
        server=request.app.state.server.describe(), serve=comparison.serve_command,
        configurations=jobs.configurations(), **run_values(run_id), **values,
    )  # fmt: skip


# --- what is shown ------------------------------------------------------------------------------
@router.get("/")
def get_index(request: Request, run: str | None = None) -> Response:
    """The page."""
    return index(request, run or None)


@router.get("/login")
def get_login(request: Request) -> Response:
    """The form that asks for the token."""
    return render(request, "login.html", wrong=False)


@router.get("/live")
def get_live(request: Request, run: str | None = None) -> Response:
    """The parts of the page that change by themselves; the script puts them in place."""
    values = run_values(run or None)
    return render(request, "live.html", server=request.app.state.server.describe(), **values)


@router.get("/plan")
def get_plan(request: Request, token: str = "") -> Response:
    """A plan with its confirmation."""
    try:
        plan = request.app.state.plans.get(token)
    except ApiError as problem:
        raise ApiError(404, "no_such_plan", problem.text, problem.remedy) from None
    again = plan.wish.words("--dry-run")
    return render(
        request, "plan.html", plan=plan, body=plan.body(), remedy=DRY_RUN_REMEDY,
        confirmed=shlex.join([jobs.PYTHON, *plan.wish.words("--confirm-run")]),
        planned=shlex.join([jobs.PYTHON, *again]),
        checkpoint=_checkpoint(plan.wish),
    )  # fmt: skip


def _checkpoint(wish: Wish) -> str:
    """The checkpoint that a resumed run continues from; '' for a new run."""
    if not wish.resume:
        return ""
    checkpoint = runs.run_folder.last_checkpoint(runs.folder(wish.resume))
    return checkpoint.name if checkpoint else "the beginning: it has no checkpoint yet"


@router.get("/runs/{run_id}/report")
def get_report(run_id: str) -> Response:
    """The evaluation's own page, with no power over this one."""
    file = runs.folder(run_id) / "report.html"
    if not runs.has(file.parent, file.name):
        raise ApiError(404, "no_report", f"{run_id} has no report", "scripts/eval.py makes one")
    return FileResponse(file, media_type="text/html",
                        headers={"content-security-policy": REPORT_POLICY})  # fmt: skip


@router.get("/runs/{run_id}/log")
def get_log(run_id: str) -> Response:
    """The whole log as text; control characters are shown as escapes."""
    for name in ("log.txt", "output.txt"):
        file = runs.folder(run_id) / name
        if runs.has(file.parent, name):
            return StreamingResponse(runs.printable_pieces(file), media_type="text/plain")
    raise ApiError(404, "no_log", f"{run_id} has no log yet")


# --- what is done: every form brings its token --------------------------------------------------
@router.post("/login")
def post_login(request: Request, fields: FormFields) -> Response:
    """Keep a proof of the right token in this browser."""
    token, given = request.app.state.token, fields.get("token", "").strip()
    if not token or not hmac.compare_digest(given.encode(), token.encode()):
        return render(request, "login.html", 401, wrong=True)
    response = RedirectResponse("/", 303)
    name = browser_safety.cookie_name(request.headers.get("host", ""), "key")
    response.set_cookie(name, browser_safety.proof(token), httponly=True, samesite="lax")
    return response


@router.post("/plan")
def post_plan(request: Request, fields: FormFields) -> Response:
    """Plan a new run, or the resumption of one."""
    try:
        plan = request.app.state.plans.make(wish_of(fields))
    except console.Problem as problem:
        status = api_errors.as_api_error(problem).status
        return index(request, None, status, error=str(problem), wished=fields)
    return RedirectResponse(f"/plan?token={plan.token}", 303)


@router.post("/run")
def post_run(request: Request, fields: FormFields) -> Response:
    """Begin the planned training."""
    begun = request.app.state.plans.start(fields.get("token", ""))
    return RedirectResponse(f"/?run={begun['run_id']}#run", 303)


@router.post("/stop")
def post_stop(fields: FormFields) -> Response:
    """Stop a run with a checkpoint."""
    stopping = jobs.stop(fields.get("run") or None)
    return RedirectResponse(f"/?run={stopping['run_id']}#run", 303)


@router.post("/try")
def post_try(request: Request, fields: FormFields) -> Response:
    """Ask base and adapter the same."""
    prompt = fields.get("prompt", "").strip()
    if not prompt:
        return index(request, None, 400, error="write a prompt first", asked=fields)
    try:
        options = {"max_tokens": int(fields.get("max_tokens") or 128),
                   "temperature": float(fields.get("temperature") or 0)}  # fmt: skip
    except ValueError:
        text = "tokens and temperature are numbers"
        return index(request, None, 400, error=text, asked=fields)
    if not 0 <= options["temperature"] <= 2 or not 1 <= options["max_tokens"] <= 1 << 20:
        text = "tokens are from 1 up, the temperature from 0 to 2"
        return index(request, None, 400, error=text, asked=fields)
    pair = (fields.get("left", ""), fields.get("right", ""))
    try:
        answers = request.app.state.server.ask_both(pair, prompt, **options)
    except ApiError as problem:
        return index(request, None, problem.status, error=str(problem), asked=fields)
    return index(request, answers=answers, asked=fields)


@router.post("/serve")
def post_serve(request: Request, fields: FormFields) -> Response:
    """Start a model server for a version."""
    request.app.state.server.start(fields.get("reference", ""))
    return RedirectResponse("/#try", 303)


@router.post("/serve/stop")
def post_serve_stop(request: Request, fields: FormFields) -> Response:
    """End the model server that was started here."""
    request.app.state.server.stop()
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
