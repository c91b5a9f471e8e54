"""Runs and versions as a hostile or broken host leaves them: one line each, nothing else hidden."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from support import panel_runs

pytestmark = pytest.mark.remote_env
X = '"><script>alert(1)</script>\x1b]0;owned\x07\u202e\x9b2J\ud800'
DEEP, LONG = "[" * 50_000, "9" * 5000
NOW = time.time()
GOOD = {"state": "completed", "step": 3, "max_steps": 5, "loss": 1.0, "started": NOW - 100,
        "ended": NOW - 5, "heartbeat": NOW - 5, "host": "gpu1", "pid": 5}  # fmt: skip


def status(**changes):
    return json.dumps(GOOD | changes)


DAMAGED = {
    "nested": DEEP, "a list": "[1]", "empty": "", "binary": b"\xff\xfe\0", "a number": "7",
    "NaN": '{"state": "completed", "started": NaN}', "1e400": '{"state":"running","started":1e400}',
    "long number": f'{{"state": "completed", "step": {LONG}}}', "no state": "{}",
    "state object": status(state={"a": 1}), "state unknown": status(state=X),
    "step text": status(step=X), "steps list": status(max_steps=[1]), "started": status(started=-1),
    "heartbeat true": status(heartbeat=True), "error object": status(error={X: X}),
    "pid text": status(pid="-1"), "pid negative": status(pid=-1), "kind": status(kind=[X]),
    "far future": status(started=1e18), "checkpoint": status(checkpoint={"a": X}),
    "5 MB": status(error="x" * (5 << 20)),
}  # fmt: skip
ODD = {  # readable, with texts and files that must not reach the page as they are
    "texts": {"status.json": status(error=X, kind=X, host=X, checkpoint=X, resumed_from=X)},
    "year 3 million": {"status.json": status(started=9e13, heartbeat=9e13, ended=9e13)},
    "numbers": {"status.json": status(loss=1e308, eval_loss=float("nan"), eta_seconds=-1e300)},
    "no steps": {"status.json": status(max_steps=0)},
    "metrics": {"status.json": status(), "metrics.jsonl": "\n".join([
        DEEP, json.dumps({X: X, "step": X}), '{"step": 1, "loss": 1e308}',
        '{"step": 2, "loss": -1e308}',
        f'{{"step": {LONG}, "loss": 1}}', '{"step": 3, "loss": NaN}', '{"loss": 1}', '[]',
        '{"step": 900000000000000, "loss": 2}', '{"step": -5, "loss": 1}']) + "\n"},
    "log": {"status.json": status(), "log.txt": (X.encode("utf-8", "replace") + b"\n") * 50},
    "one long line": {"status.json": status(), "log.txt": b"A" * (3 << 20)},
    "job": {"status.json": status(), "job.json": DEEP, "stop.json": DEEP, "run.json": DEEP},
    "report": {"status.json": status(), "report.html": "<script>alert(1)</script>"},
}  # fmt: skip
PAGES = ("/", "/?run=hostile", "/live?run=hostile", "/api/v1/training/status?lines=50",
         "/api/v1/training/status?run=hostile", "/api/v1/models", "/runs/hostile/log",
         "/runs/hostile/report")  # fmt: skip


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    panel_runs.make(tmp_path, "good-run", "completed", age=1)
    return tmp_path


def put(work, files):
    run = work / "adapters" / "runs" / "hostile"
    run.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        (run / name).write_bytes(raw)
    return run


def refuse_constant(word):
    raise ValueError(word)


def controls(text):
    """The control characters of a text but tab and line feed."""
    odd = (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0xD800)
    return {c for c in text if ord(c) in odd}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_status_is_one_line_and_hides_no_other_run(client, work, content):
    put(work, {"status.json": content})
    run = client.get("/api/v1/training/status?run=hostile").json()["run"]
    assert run["state"] == "damaged" and "status.json: damaged, " in run["error"]
    assert len(run["error"]) < 400 and not controls(run["error"])
    assert run["step"] is None and run["resumable"] is False
    page = client.get("/")
    assert page.status_code == 200 and "good-run" in page.text and "hostile" in page.text
    assert client.get("/?run=hostile").status_code == 200


@pytest.mark.parametrize("files", ODD.values(), ids=ODD)
def test_no_text_or_number_of_a_run_breaks_a_page_or_reaches_a_terminal(client, work, files):
    from dashboard.training_events import Follower

    put(work, files)
    for page in PAGES:
        answer = client.get(page)
        assert answer.status_code in (200, 404), (page, answer.text[:200])
        if not page.endswith("report"):
            html = answer.headers["content-type"].startswith("text/html")
            assert not controls(answer.text) and not (html and "<script>" in answer.text)
        if page.startswith("/api"):
            json.loads(answer.text, parse_constant=refuse_constant)
    events = list(Follower("hostile").poll())
    assert events[-1][0] == "status"
    for _, _, data in events:
        json.loads(data, parse_constant=refuse_constant)


def test_a_line_without_end_does_not_hide_the_lines_after_it(work):
    from dashboard.training_events import Follower

    run = put(work, {"status.json": status(state="running"), "log.txt": b""})
    follower = Follower("hostile")
    list(follower.poll())
    (run / "log.txt").write_bytes(b"A" * (3 << 20) + b"\nthe next line\n")
    lines = [json.loads(d)["line"] for _ in range(6) for k, _, d in follower.poll() if k == "log"]
    assert lines[-1] == "the next line"


def test_a_link_in_a_run_leads_nowhere(client, work, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the private key\n")
    run = put(work, {"status.json": status()})
    for name in ("report.html", "log.txt", "metrics.jsonl"):
        (run / name).symlink_to(secret)
    for page in PAGES:
        assert "private key" not in client.get(page).text
    from dashboard.training_events import Follower

    assert "private key" not in str(list(Follower("hostile").poll()))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "job.json", "report.html"])
def test_a_pipe_or_device_in_a_run_keeps_nobody_waiting(client, work, name, make):
    from dashboard.training_events import Follower

    make(put(work, {"status.json": status()}) / name)
    for page in PAGES:
        assert client.get(page).status_code in (200, 404)
    assert list(Follower("hostile").poll())[-1][0] == "status"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_status_that_is_no_file_hides_no_other_run(client, work, make):
    make(put(work, {}) / "status.json")
    page = client.get("/")
    assert page.status_code == 200 and "good-run" in page.text
    shutil.rmtree(work / "adapters" / "runs" / "good-run")
    for path in ("/", "/live", "/api/v1/training/status"):
        assert client.get(path).status_code == 200, "where it is the only folder, too"


# --- Stop ends trainers of this machine alone ---------------------------------------------------
@pytest.fixture
def victim():
    """A process of the user's that has nothing to do with training; another looks like it."""
    look = [sys.executable, "-c", "import signal; signal.pause()", "lora_trainer.py",
            "--run-id", "another"]  # fmt: skip
    plain = subprocess.Popen(["sleep", "1000"])
    trainer = subprocess.Popen(look)
    yield plain, trainer
    for process in (plain, trainer):
        process.kill()
        process.wait()


def test_a_run_from_elsewhere_makes_stop_end_nothing(client, work, victim):
    """status.json and job.json of a host say anything: no number, no name, no time is a proof."""
    import psutil

    plain, trainer = victim
    host = socket.gethostname()
    signals = []
    signal.signal(signal.SIGTERM, lambda *_: signals.append(1))  # pid 0, -1 and our own
    try:
        for pid in (plain.pid, trainer.pid, os.getpid(), 0, 1, -1, -plain.pid, 10**30):
            try:
                process = psutil.Process(pid)
                created, command = process.create_time(), process.cmdline()
            except (psutil.Error, ValueError, OverflowError):
                created, command = NOW, ["python", "lora_trainer.py", "--run-id", "hostile"]
            forged = {"state": "running", "pid": pid, "host": host, "started": NOW,
                      "heartbeat": NOW + 1e6, "command": command}  # fmt: skip
            job = {"pid": pid, "host": host, "created": created, "started": NOW + 1,
                   "command": command}  # fmt: skip
            for files in ({"status.json": json.dumps(forged)}, {"job.json": json.dumps(job)},
                          {"status.json": status(), "job.json": json.dumps(job)}):  # fmt: skip
                run = put(work, files | {".lock": f"{pid}\n"})
                for body in ({"run": "hostile"}, {"run": "hostile", "now": True}, {}):
                    answer = client.post("/api/v1/training/stop", json=body)
                    assert answer.status_code == 409, (pid, files, answer.text)
                for name in ("status.json", "job.json"):
                    (run / name).unlink(missing_ok=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert plain.poll() is None and trainer.poll() is None and not signals


# --- versions -------------------------------------------------------------------------------------
@pytest.fixture
def version(work):
    from adapters import register
    from support import adapter_runs

    for name, f1 in (("good", 0.5), ("odd", 0.4)):
        adapter_runs.run(work, name, report=adapter_runs.report(f1, base=0.2))
        made = register.register(work / "adapters", name, f"{name}-lora")
    return made


def change(card, dotted, value):
    *outer, last = dotted.split(".")
    for key in outer:
        card = card[key]
    card[last] = value


@pytest.mark.parametrize(
    ("key", "value"),
    [("created", 7), ("created", X), ("base.name", X), ("adapter", None), ("adapter.r", X),
     ("adapter.parameters", 10**400), ("run.id", X), ("run.id", "../../x"), ("gate.status", X),
     ("gate", []), ("evaluation.metrics", {X: 1}), ("evaluation.metrics", []),
     ("evaluation.metrics", {"f1": {"value": float("inf"), "low": 0.0, "high": float("nan")}}),
     ("evaluation.dataset.rows", X), ("evaluation.base", "x"), ("files", {}), ("config", X)],
)  # fmt: skip
def test_an_odd_card_is_shown_or_named_and_the_others_stay(client, version, key, value):
    card = json.loads((version.folder / "card.json").read_text())
    change(card, key, value)
    (version.folder / "card.json").chmod(0o644)
    (version.folder / "card.json").write_text(json.dumps(card))
    refused_or_shown(client)


@pytest.mark.parametrize("text", ["", "[]", DEEP, "{", "null", f'{{"format": {LONG}}}'])
@pytest.mark.parametrize("file", ["card", "canary", "retired"])
def test_a_damaged_file_of_a_version_takes_nothing_down(client, version, file, text):
    path = version.folder / "card.json" if file == "card" else version.fact_file(file)
    if path.exists():
        path.chmod(0o644)
    path.write_text(text)
    refused_or_shown(client)


def refused_or_shown(client):
    models = client.get("/api/v1/models")
    assert models.status_code == 200, models.text[:300]
    json.loads(models.text, parse_constant=refuse_constant)
    listed = {m["reference"]: m["error"] for m in models.json()["models"]}
    assert listed["good-lora@v1.0.0"] is None and "odd-lora@v1.0.0" in listed
    page = client.get("/")
    assert page.status_code == 200 and "good-lora@v1.0.0" in page.text
    assert not controls(page.text) and "<script>alert" not in page.text
