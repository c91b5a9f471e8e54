"""The training API plans, asks for a confirmation, and starts and stops one training at a time."""

import errno
import fcntl
import json
import time

import pytest

from support import panel_runs
from support.training_requests import confirm, plan, refused

pytestmark = pytest.mark.remote_env


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


def test_a_disk_without_locks_keeps_no_training_from_starting(work, monkeypatch, capsys):
    from dashboard import training_jobs
    from kit import lock

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with training_jobs.training_lock() as descriptor:
        assert descriptor > 2
    assert "this file system has no locks" in capsys.readouterr().err


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
