"""The event stream of a run, and a real training that outlives the server."""

import contextlib
import json
import os
import signal
import time

import pytest

from support import panel_runs, tiny
from support.processes import wait_until
from support.training_requests import confirm, plan, refused

pytestmark = pytest.mark.remote_env


def test_events_go_on_after_the_last_id_without_gap_or_repetition(work):
    from dashboard.training_events import Follower

    run = panel_runs.make(work, "r1", step=100)
    first = list(Follower().poll())
    kinds = [kind for kind, _, _ in first]
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert kinds.count("metrics") == len(rows) and kinds[-1] == "status" and "log" in kinds
    middle = next(i for i, event in enumerate(first) if event[0] == "metrics") + 3
    again = list(Follower(None, first[middle][1]).poll())
    assert [e[2] for e in again if e[0] != "status"] == [
        e[2] for e in first[middle + 1 :] if e[0] != "status"
    ]
    follower = Follower(None, first[-1][1])
    assert [kind for kind, _, _ in follower.poll()] == ["status"], "a new client gets the state"
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 110, "loss": 0.5}\n{"step": 120')
        f.flush()
        assert [json.loads(e[2])["step"] for e in follower.poll() if e[0] == "metrics"] == [110]
        assert list(follower.poll()) == []
        f.write(', "loss": 0.4}\n')
    assert [json.loads(e[2])["step"] for e in follower.poll()] == [120]


def test_a_run_that_was_rewound_or_replaced_begins_anew(work):
    from dashboard.training_events import Follower

    run = panel_runs.make(work, "r1", step=200)
    follower = Follower()
    last = list(follower.poll())[-1][1]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    part = run / "metrics.part"
    part.write_text("".join(lines[:4]))
    os.replace(part, run / "metrics.jsonl")
    kinds = [kind for kind, _, _ in follower.poll()]
    assert kinds[0] == "reset" and kinds.count("metrics") == 4
    part.write_text("".join(lines[:2] + lines[8:]))
    os.replace(part, run / "metrics.jsonl")
    assert next(iter(follower.poll()))[0] == "reset", "longer than what was sent, but another"
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"started": time.time()}))
    kinds = [kind for kind, _, _ in Follower(None, last).poll()]
    assert kinds[0] == "reset", "another attempt, though the server is a new one"
    panel_runs.make(work, "r2", step=50, started=time.time() + 1)
    kinds = [kind for kind, _, _ in follower.poll()]
    assert kinds[0] == "reset" and kinds.count("metrics") == 6
    assert next(iter(Follower(None, "x/y/z").poll()))[0] == "metrics", "a foreign id is none"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A work folder with rows and a miniature."""
    folder = tmp_path_factory.mktemp("work")
    tiny.write_rows(folder)
    tiny.build(folder, steps=1)
    return folder


def read_events(url, last_id="", most=400):
    """(id, kind, data) of an event stream, up to the first one of kind status."""
    import httpx

    headers = {"last-event-id": last_id} if last_id else {}
    events, event = [], {}
    with httpx.stream("GET", f"{url}/api/v1/training/events", headers=headers, timeout=30) as r:
        assert r.headers["content-type"].startswith("text/event-stream")
        for line in r.iter_lines():
            name, _, value = line.partition(": ")
            event[name] = value
            if not line and "data" in event:
                events.append((event.get("id"), event["event"], json.loads(event["data"])))
                if event["event"] == "status" or len(events) == most:
                    return events
                event = {}
    return events


class RealTraining:
    """A training that the panel started; `trained` is the process that trains it now."""

    def __init__(self, work, server, client):
        self.work, self.server, self.client = work, server, client
        self.run_id, self.trained = "", 0

    def status(self):
        run = self.client.get("/api/v1/training/status").json()["run"]
        assert run["state"] not in ("failed", "interrupted"), run
        return run

    def start(self, overrides):
        body = plan(self.client, *overrides)
        assert body["ready"] and body["plan"]["steps"] == 4000
        answer = confirm(self.client, body["token"])
        assert answer.status_code == 202, answer.text
        self.run_id, self.trained = answer.json()["run_id"], answer.json()["pid"]
        refused(confirm(self.client, body["token"]), 409, "busy")
        assert self.status()["state"] == "starting"
        wait_until(lambda: (self.status()["step"] or 0) >= 5)

    def outlive_the_server(self):
        """Restart the panel; the events before and after it are those of metrics.jsonl."""
        before = read_events(self.server.url)
        steps = self.status()["step"]
        assert self.server.stop() == 143
        self.server.start()
        wait_until(lambda: self.status()["step"] > steps)
        assert self.status()["state"] == "running" and self.status()["pid"] == self.trained
        after = read_events(self.server.url, before[-1][0])
        rows = [row for _, kind, row in before + after if kind == "metrics"]
        file = self.work / "adapters" / "runs" / self.run_id / "metrics.jsonl"
        written = [json.loads(line) for line in file.open()]
        assert rows == written[: len(rows)] and len(rows) > 1

    def stop(self):
        answer = self.client.post("/api/v1/training/stop", json={"run": self.run_id})
        assert answer.status_code == 202
        wait_until(lambda: self.status()["state"] == "stopped")
        stopped = self.status()
        assert stopped["checkpoint"] == f"checkpoint-{stopped['step']}"
        assert stopped["resumable"]
        return stopped

    def resume_and_stop_by_the_page(self, stopped):
        page = self.client.get("/")
        csrf = {"csrf": page.text.partition('name="csrf" value="')[2].partition('"')[0]}
        answer = self.client.post("/plan", data=csrf | {"resume": self.run_id})
        assert answer.status_code == 303, answer.text
        shown = self.client.get(answer.headers["location"]).text
        assert f"Resume {self.run_id}" in shown and stopped["checkpoint"] in shown
        token = answer.headers["location"].partition("token=")[2]
        answer = self.client.post("/run", data=csrf | {"token": token})
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"] == f"/?run={self.run_id}#run"
        wait_until(lambda: (self.status()["step"] or 0) > stopped["step"])
        resumed = self.status()
        assert resumed["resumed_from"] == stopped["checkpoint"] and resumed["pid"] != self.trained
        self.trained = resumed["pid"]
        answer = self.client.post("/stop", data=csrf | {"run": self.run_id})
        assert answer.status_code == 303
        wait_until(lambda: self.status()["state"] == "stopped")


@pytest.mark.slow
def test_a_training_outlives_the_server_is_stopped_and_resumed(real):
    """Plan, start, a second start, the server's restart, stop, and resume by the page's buttons."""
    import httpx

    changes = {"training__max_steps": 4000, "training__eval_steps": 1000,
               "training__save_steps": 1000, "safety__dry_run": "false"}  # fmt: skip
    server = panel_runs.Panel(real)
    with httpx.Client(base_url=server.url, timeout=120) as client:
        training = RealTraining(real, server, client)
        try:
            training.start([word for word in tiny.options(**changes) if word != "--set"])
            training.outlive_the_server()
            training.resume_and_stop_by_the_page(training.stop())
        finally:
            server.stop()
            if training.trained:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(training.trained, signal.SIGKILL)
