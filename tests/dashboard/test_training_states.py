"""The training API reads the states of runs and versions from their folders."""

import json
import time

import pytest

from support import panel_runs

pytestmark = pytest.mark.remote_env


def state(client, run_id):
    run = client.get("/api/v1/training/status", params={"run": run_id}).json()["run"]
    return run["state"], run["error"], run["resumable"]


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
    shown = client.get("/api/v1/training/status").json()["run"]
    assert shown["state"] == "starting" and shown["heartbeat"] is None
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
    models = client.get("/api/v1/models").json()["models"]
    assert [m["reference"] for m in models] == ["mapper-lora@v1.0.0", "other-lora@v1.0.0"]
    assert models[0]["metrics"]["f1"]["value"] == 0.5 and models[0]["base_metrics"]["f1"]
    assert models[0]["canary"]["ok"] and models[0]["gate"] == "passed"
    assert "card.json" in models[1]["error"]
