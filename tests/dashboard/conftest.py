"""Fixtures of this room: an empty work folder, the panel's application without a socket."""

import json
import shutil
import subprocess
import sys

import pytest

from support import panel_runs
from support.panel_runs import HOSTILE
from support.training_requests import ORIGIN


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


@pytest.fixture(scope="package")
def days_of_work(tmp_path_factory):
    """A work folder as after some days: runs in several states, two versions."""
    from adapters import retire
    from checkpoint_manager import CheckpointManager
    from support import adapter_runs

    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEM_WORKDIR", str(folder))
        manager = CheckpointManager()
        for name, f1, seed in (("r1", 0.41, 1), ("r2", 0.52, 2)):
            measured = adapter_runs.report(f1, base=0.22, rouge_l=f1 + 0.1, loss=0.8)
            run = adapter_runs.run(folder, name, adapter_runs.tensors(seed), report=measured)
            (run / "report.html").write_text("<style>p{color:red}</style><p>measured</p>")
            version = manager.register(run, "mapper-lora")
        canary = {"ok": True, "change": 0.21, "different_answers": 4, "prompts": [{}] * 5}
        version.fact_file("canary").write_text(json.dumps(canary))
        retire.retire(manager.resolve("mapper-lora@v1.0.0"), "the newer one is better")
    panel_runs.make(folder, "20261119-070000-dead", pid=4194300, age=8e4)
    panel_runs.make(folder, "20261120-070000-fa11", "failed", pid=4194300, age=4e4, error=HOSTILE)
    return folder


@pytest.fixture
def stoppable():
    """A process in a trainer's place; TERM ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()", "lora_trainer.py"]
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def running(days_of_work, stoppable):
    """A run that trains now, and is gone after the test."""
    run = panel_runs.make(days_of_work, "20261121-081530-3f2a", pid=stoppable.pid)
    with (run / "log.txt").open("a") as f:
        f.write(f"2026-11-21T08:16:00Z {HOSTILE}\n")
    yield run
    shutil.rmtree(run)
