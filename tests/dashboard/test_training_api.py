"""The training API: plans and tokens, one training at a time, states from disk, events."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from support import panel_runs, tiny
from support.processes import wait_until

pytestmark = pytest.mark.remote_env
ORIGIN = "http://127.0.0.1:8765"


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(work):
    """The application itself, without a socket."""
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    with TestClient(panel_app.create_app(), base_url=ORIGIN) as client:
        yield client


@pytest.fixture
def trainer():
    """A process in a trainer's place that counts the TERMs it gets, and says so."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('term', flush=True))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "lora_trainer.py", "--run-id", "again"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def plan(client, *overrides, **body):
    answer = client.post("/api/v1/training/run", json={"overrides": overrides} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, code):
    """The error object of a refusal, in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["code"] == code, error
    return error


def confirm(client, token):
    return client.post("/api/v1/training/run", json={"token": token})


# --- plans ------------------------------------------------------------------------------------


def test_a_request_without_a_token_only_plans(client, work):
    body = plan(client)
    assert body["dry_run"] is True and body["ready"] is False
    assert body["plan"]["model"] == "models/Llama-3.1-8B-Instruct"
    assert "safety.dry_run: true" in body["obstacles"][0]
    assert body["obstacles"][1].startswith("base model: no model at models/Llama")
    assert body["command"][1:] == ["scripts/lora_trainer.py", "--confirm-run"]
    error = refused(confirm(client, body["token"]), 422, "dry_run")
    assert "plan again with the override safety.dry_run=false" in error["message"]
    assert not list(work.glob("adapters/runs/*")), "nothing was started"


def test_the_request_may_say_the_first_yes_itself(client):
    body = plan(client, "safety.dry_run=false")
    assert len(body["obstacles"]) == 1 and "base model" in body["obstacles"][0]
    refused(confirm(client, body["token"]), 422, "not_ready")


def test_a_plan_is_stale_once_data_or_configuration_changes(client, work, monkeypatch):
    rows = work / "data" / "processed" / "train_sft.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text('{"messages": []}\n')
    token = plan(client)["token"]
    refused(confirm(client, token), 422, "dry_run")
    rows.write_text('{"messages": [1]}\n')
    refused(confirm(client, token), 412, "stale_plan")
    rows.write_text('{"messages": []}\n')
    refused(confirm(client, token), 422, "dry_run")
    monkeypatch.setenv("TANDEM_TRAINING__LEARNING_RATE", "1e-5")
    refused(confirm(client, token), 412, "stale_plan")
    refused(confirm(client, "unheard-of"), 412, "stale_plan")


def test_a_token_confirms_no_other_request(client):
    token = plan(client)["token"]
    other = {"token": token, "overrides": ["lora.r=8"]}
    refused(client.post("/api/v1/training/run", json=other), 412, "stale_plan")


def test_a_wrong_configuration_is_answered_with_every_error(client):
    body = {"overrides": ["lora.rank=8", "training.max_steps=x"]}
    error = refused(client.post("/api/v1/training/run", json=body), 400, "misuse")
    assert "lora.rank: unknown key" in error["message"] and "max_steps" in error["message"]
    body = {"config": "../../etc/passwd"}
    error = refused(client.post("/api/v1/training/run", json=body), 400, "misuse")
    assert error["message"].startswith("no training configuration is named")


# --- one at a time, and its end -----------------------------------------------------------------


def test_a_second_training_is_refused_with_the_name_of_the_first(client, work, trainer):
    token = plan(client, "safety.dry_run=false")["token"]
    panel_runs.make(work, "by-hand", pid=trainer.pid)
    error = refused(confirm(client, token), 409, "busy")
    assert error["run_id"] == "by-hand" and "by-hand is running" in error["message"]


def test_the_lock_of_a_training_that_has_written_nothing_yet_holds(work):
    from dashboard import training_jobs
    from serving.api_errors import ApiError

    with (
        (training_jobs.folder() / "training.lock").open("w") as held,
        pytest.raises(ApiError) as refusal,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)
        training_jobs.start(work / "adapters" / "runs" / "second", ["paths.py"], False)
    assert refusal.value.status == 409
    assert not (work / "adapters" / "runs" / "second").exists()


def test_stopping_twice_sends_one_signal_and_now_sends_another(client, work, trainer):
    panel_runs.make(work, "r1", pid=trainer.pid)
    for _ in range(2):
        answer = client.post("/api/v1/training/stop", json={})
        assert answer.status_code == 202 and answer.json()["state"] == "stopping"
    assert client.get("/api/v1/training/status").json()["run"]["state"] == "stopping"
    assert trainer.stdout.readline() == "term\n"
    assert client.post("/api/v1/training/stop", json={"run": "r1", "now": True}).status_code == 202
    assert trainer.stdout.readline() == "term\n"
    trainer.kill()
    assert trainer.stdout.read() == "", "two signals, not three"


def test_a_process_that_only_has_the_same_number_is_never_signalled(client, work, trainer):
    run = panel_runs.make(work, "old", pid=trainer.pid, age=7200, held=False)
    job = {"pid": trainer.pid, "created": time.time() - 9e4, "started": time.time() - 9e4}
    (run / "job.json").write_text(json.dumps(job | {"host": panel_runs.socket.gethostname()}))
    assert client.get("/api/v1/training/status").json()["run"]["state"] == "interrupted"
    refused(client.post("/api/v1/training/stop", json={}), 409, "not_running")
    refused(client.post("/api/v1/training/stop", json={"run": "old"}), 409, "not_running")
    assert trainer.poll() is None


# --- what is on disk ------------------------------------------------------------------------------


def state(client, run_id):
    found = client.get("/api/v1/training/status", params={"run": run_id}).json()["run"]
    return found["state"], found["error"], found["resumable"]


def test_states_are_read_from_the_folders(client, work, trainer):
    gone = 4194300  # above the largest process number
    panel_runs.make(work, "alive", pid=trainer.pid)
    panel_runs.make(work, "done", "completed", pid=gone)
    panel_runs.make(work, "failed", "failed", pid=gone, error="out of GPU memory")
    panel_runs.make(work, "killed", pid=gone)
    panel_runs.make(work, "away", pid=gone, host="gpu1")
    other = panel_runs.make(work, "rlhf", "stopped", pid=gone, kind="dpo")
    never = work / "adapters" / "runs" / "never"
    never.mkdir()
    (never / "job.json").write_text(json.dumps({"pid": gone, "started": 1.0}))
    (never / "output.txt").write_text("lora_trainer.py: no such model; download it\n")
    assert state(client, "alive") == ("running", None, False)
    assert state(client, "done") == ("completed", None, False)
    assert state(client, "failed") == ("failed", "out of GPU memory", True)
    assert state(client, "killed")[0] == "interrupted" and state(client, "killed")[2]
    assert state(client, "away")[0] == "elsewhere"
    assert state(client, "rlhf") == ("stopped", None, False)
    assert state(client, "never") == (
        "failed",
        "lora_trainer.py: no such model; download it",
        False,
    )
    (other / "status.json").write_text("{half")
    assert state(client, "killed")[0] == "interrupted", "one damaged file hides no other run"
    assert state(client, "rlhf")[0] == "damaged" and "not JSON" in state(client, "rlhf")[1]
    body = client.get("/api/v1/training/status").json()
    assert body["training"] is True and body["run"]["id"] == "alive", "what trains comes first"


def test_a_resumed_run_is_starting_until_its_new_process_writes(client, work, trainer):
    import psutil

    run = panel_runs.make(work, "again", "stopped", pid=4194300, age=600)
    created = psutil.Process(trainer.pid).create_time()
    job = {"pid": trainer.pid, "created": created, "started": time.time(),
           "command": ["python", "lora_trainer.py", "--run-id", "again"],
           "host": panel_runs.socket.gethostname()}  # fmt: skip
    (run / "job.json").write_text(json.dumps(job))
    found = client.get("/api/v1/training/status").json()["run"]
    assert found["state"] == "starting" and found["heartbeat"] is None
    trainer.kill()
    trainer.wait()
    (run / "output.txt").write_text("lora_trainer.py: again began with another configuration\n")
    assert state(client, "again") == (
        "stopped", "lora_trainer.py: again began with another configuration", True,
    )  # fmt: skip


def test_numbers_that_json_has_no_word_for_are_null(client, work, trainer):
    run = panel_runs.make(work, "nan", pid=trainer.pid, loss=float("nan"))
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 421, "loss": NaN}\n{"step": 422, "lo')
    assert client.get("/api/v1/training/status").json()["run"]["loss"] is None
    assert client.get("/").status_code == 200


def test_versions_come_with_metrics_and_canary(client, work):
    from checkpoint_manager import CheckpointManager
    from support import adapter_runs

    assert client.get("/api/v1/models").json() == {"models": []}
    run = adapter_runs.run(work, "r1", report=adapter_runs.report(0.5, base=0.2))
    version = CheckpointManager().register(run, "mapper-lora")
    version.fact_file("canary").write_text('{"ok": true, "change": 0.2, "prompts": []}')
    damaged = work / "adapters" / "other-lora" / "v1.0.0"
    damaged.mkdir(parents=True)
    found = client.get("/api/v1/models").json()["models"]
    assert [m["reference"] for m in found] == ["mapper-lora@v1.0.0", "other-lora@v1.0.0"]
    assert found[0]["metrics"]["f1"]["value"] == 0.5 and found[0]["base_metrics"]["f1"]
    assert found[0]["canary"]["ok"] and found[0]["gate"] == "passed"
    assert "card.json" in found[1]["error"]


# --- who may ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example:8765"}, 403, "foreign_host"),
        ({"host": "127.0.0.1.evil.example"}, 403, "foreign_host"),
        ({"origin": "http://evil.example"}, 403, "foreign_origin"),
        ({"origin": "http://127.0.0.1:3000"}, 403, "foreign_origin"),
        ({"origin": "null"}, 403, "foreign_origin"),
        ({"sec-fetch-site": "cross-site"}, 403, "foreign_origin"),
        ({"content-type": "text/plain"}, 415, "not_json"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "not_json"),
    ],
)
def test_other_pages_cannot_start_or_stop_anything(client, headers, status, code):
    for address in ("run", "stop"):
        sent = {"content-type": "application/json"} | headers
        answer = client.post(f"/api/v1/training/{address}", content="{}", headers=sent)
        refused(answer, status, code)


def test_a_name_that_was_pointed_here_reads_nothing_either(client):
    for address in ("/", "/api/v1/training/status", "/api/v1/training/events", "/static/panel.js"):
        answer = client.get(address, headers={"host": "evil.example"})
        refused(answer, 403, "foreign_host")
    assert client.get("/", headers={"host": "localhost:9000"}).status_code == 200, "a tunnel"
    assert client.get("/", headers={"host": "[::1]:8765"}).status_code == 200


def test_bad_requests_get_one_clear_answer(client, work):
    post = "/api/v1/training/run"
    json_ = {"content-type": "application/json"}
    refused(client.post(post, content="{", headers=json_), 400, "not_json")
    error = refused(client.post(post, json={"overrides": "x"}), 400, "invalid")
    assert error["message"].startswith("overrides")
    refused(client.post(post, json={"tokn": "x"}), 400, "invalid")
    refused(client.post(post, content=b"x" * 300_000, headers=json_), 413, "too_large")
    refused(client.post("/api/v1/training/stop", json={}), 409, "not_running")
    panel_runs.make(work, "r7", "completed")
    error = refused(client.get("/api/v1/training/status?run=r8"), 404, "no_such_run")
    assert "the latest: r7" in error["message"]
    refused(client.get("/api/v1/training/status?run=../runs"), 404, "no_such_run")
    refused(client.get("/api/v1/training/events?run=r8"), 404, "no_such_run")
    refused(client.post(post, json={"resume": "r7"}), 409, "not_resumable")
    assert client.get("/api/v1/nothing").json()["error"]["message"]
    assert client.get(post).status_code == 405


def test_a_token_is_asked_of_everybody_where_one_is_set(work):
    from fastapi.testclient import TestClient

    from dashboard import panel_app

    secret = "correct horse battery"
    with TestClient(panel_app.create_app(token=secret), base_url=ORIGIN) as client:
        refused(client.get("/api/v1/training/status"), 401, "invalid_api_key")
        wrong = {"authorization": "Bearer wrong horse battery"}
        refused(client.get("/api/v1/models", headers=wrong), 401, "invalid_api_key")
        right = {"authorization": f"Bearer {secret}"}
        assert client.get("/api/v1/training/status", headers=right).status_code == 200


# --- events -----------------------------------------------------------------------------------


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


# --- the real thing -------------------------------------------------------------------------------


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
    found, event = [], {}
    with httpx.stream("GET", f"{url}/api/v1/training/events", headers=headers, timeout=30) as r:
        assert r.headers["content-type"].startswith("text/event-stream")
        for line in r.iter_lines():
            name, _, value = line.partition(": ")
            event[name] = value
            if not line and "data" in event:
                found.append((event.get("id"), event["event"], json.loads(event["data"])))
                if event["event"] == "status" or len(found) == most:
                    return found
                event = {}
    return found


@pytest.mark.slow
def test_a_training_outlives_the_server_is_stopped_and_resumed(real):
    """Plan, start, a second start, the server's restart, stop, and resume by the page's buttons."""
    import httpx

    server = panel_runs.Panel(real)
    changes = {"training__max_steps": 4000, "training__eval_steps": 1000,
               "training__save_steps": 1000, "safety__dry_run": "false"}  # fmt: skip
    overrides = [w for w in tiny.options(**changes) if w != "--set"]
    trained = 0
    try:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            body = plan(client, *overrides)
            assert body["ready"] and body["plan"]["steps"] == 4000
            answer = confirm(client, body["token"])
            assert answer.status_code == 202, answer.text
            run_id, trained = answer.json()["run_id"], answer.json()["pid"]
            refused(confirm(client, body["token"]), 409, "busy")

            def status():
                found = client.get("/api/v1/training/status").json()["run"]
                assert found["state"] not in ("failed", "interrupted"), found
                return found

            assert status()["state"] == "starting"
            wait_until(lambda: (status()["step"] or 0) >= 5)
            before = read_events(server.url)
            steps = status()["step"]
            assert server.stop() == 143
            server.start()
            wait_until(lambda: status()["step"] > steps)
            assert status()["state"] == "running" and status()["pid"] == trained
            after = read_events(server.url, before[-1][0])
            rows = [row for _, kind, row in before + after if kind == "metrics"]
            written = [json.loads(line) for line in
                       (real / "adapters" / "runs" / run_id / "metrics.jsonl").open()]  # fmt: skip
            assert rows == written[: len(rows)] and len(rows) > 1

            answer = client.post("/api/v1/training/stop", json={"run": run_id})
            assert answer.status_code == 202
            wait_until(lambda: status()["state"] == "stopped")
            stopped = status()
            assert stopped["checkpoint"] == f"checkpoint-{stopped['step']}"
            assert stopped["resumable"]

            page = client.get("/")
            csrf = {"csrf": page.text.partition('name="csrf" value="')[2].partition('"')[0]}
            answer = client.post("/plan", data=csrf | {"resume": run_id})
            assert answer.status_code == 303, answer.text
            shown = client.get(answer.headers["location"]).text
            assert f"Resume {run_id}" in shown and stopped["checkpoint"] in shown
            token = answer.headers["location"].partition("token=")[2]
            answer = client.post("/run", data=csrf | {"token": token})
            assert answer.status_code == 303, answer.text
            assert answer.headers["location"] == f"/?run={run_id}#run"
            wait_until(lambda: (status()["step"] or 0) > stopped["step"])
            resumed = status()
            assert resumed["resumed_from"] == stopped["checkpoint"] and resumed["pid"] != trained
            trained = resumed["pid"]
            answer = client.post("/stop", data=csrf | {"run": run_id})
            assert answer.status_code == 303
            wait_until(lambda: status()["state"] == "stopped")
    finally:
        server.stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(trained, signal.SIGKILL)
