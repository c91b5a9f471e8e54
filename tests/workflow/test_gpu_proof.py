"""The proof for a GPU: limits, order and reasons; and a dry run of its steps on the CPU."""

import json
import subprocess
import sys

import pytest

import prove_gpu
from kit import console
from support.checkout import ROOT
from support.processes import is_alive, wait_until
from training import cards
from workflow import gpu_proof


def step(name="kernels", seconds=20.0, **more):
    return gpu_proof.ProofStep(name, seconds, lambda sizes: {}, **more)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Let a Python text stand for the command of every step."""

    def put(text: str) -> None:
        file = tmp_path / "child.py"
        file.write_text(text)
        monkeypatch.setattr(gpu_proof, "COMMAND", file)

    return put


def test_only_takes_what_a_step_needs_along_and_keeps_the_order():
    names = [chosen.name for chosen in gpu_proof.named("serve, kernels")]
    assert names == ["models", "kernels", "train-4bit", "serve"]
    assert gpu_proof.named(None) == list(gpu_proof.STEPS)
    with pytest.raises(console.Misuse, match="--only speed: no such step; give: environment, "):
        gpu_proof.named("kernels,speed")


def test_every_step_can_run_within_eight_minutes_on_a_card():
    """The limits are for what hangs: the usual pace is a half of them (docs/GPU.md)."""
    assert prove_gpu.SECONDS == 480
    assert all(chosen.seconds <= 120 for chosen in gpu_proof.STEPS)
    names = [chosen.name for chosen in gpu_proof.STEPS]
    assert all(not c.after or names.index(c.after) < i for i, c in enumerate(gpu_proof.STEPS))


def test_the_facts_of_a_step_are_its_last_line(child, tmp_path):
    child("print('noise'); print('RESULT {\"tokens_per_second\": 5041}')")
    report = gpu_proof.prove([step()], tmp_path / "out", small=True, seconds=60)
    assert report["good"] and report["steps"][0]["facts"] == {"tokens_per_second": 5041}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert "tokens_per_second 5,041" in gpu_proof.line(report["steps"][0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; print('a'); sys.exit('prove_gpu.py: out of room')", "out of room"),
        ("import os; print('CUDA error at line 9', flush=True); os._exit(1)", "CUDA error at line"),
        ("import os; os.kill(os.getpid(), 9)", "no output"),
        ("print('done')", "done"),
    ],
)
def test_a_step_that_fails_says_its_last_line_and_the_next_ones_go_on(child, tmp_path, text, why):
    child(f"import sys\nif 'second' in sys.argv: print('RESULT {{}}'); sys.exit()\n{text}")
    report = gpu_proof.prove([step("first"), step("second")], tmp_path / "out", True, 60)
    first, second = report["steps"]
    assert first["state"] == "failed" and why in first["why"]
    assert second["state"] == "good" and not report["good"]


@pytest.mark.slow
def test_a_step_that_hangs_is_ended_with_all_its_processes(child, tmp_path):
    child(
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\ntime.sleep(600)"
    )
    record = gpu_proof.run_step(step(), tmp_path, small=True, seconds=4.0)
    assert record["state"] == "failed" and record["why"] == "over 4 s"
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), seconds=30)


def test_what_cannot_run_is_named_with_its_reason(child, tmp_path):
    child("import sys; sys.exit('it broke')")
    steps = [step("base"), step("next", after="base"), step("full", needs_gpu=True)]
    records = gpu_proof.prove(steps, tmp_path / "out", small=True, seconds=60)["steps"]
    assert [record["state"] for record in records] == ["failed", "failed", "skipped"]
    assert records[1]["why"] == "base gave nothing to work on"
    assert records[2]["why"] == "it needs a card"
    late = gpu_proof.prove([step()], tmp_path / "out", small=True, seconds=1)["steps"][0]
    assert late["state"] == "failed" and late["why"] == "no time left"


def test_without_a_gpu_it_is_one_line_that_names_the_dry_run(monkeypatch):
    monkeypatch.setattr(cards, "look", lambda: ([], []))
    with pytest.raises(console.Problem, match="no NVIDIA GPU here; .*--dry-run"):
        prove_gpu.main([])


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_dry_run_trains_serves_and_evaluates_on_the_cpu(tmp_path):
    words = [sys.executable, str(ROOT / "scripts" / "prove_gpu.py"), "--dry-run", "--json",
             "--only", "serve,evaluate", "--out", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [record["state"] for record in report["steps"]] == ["good"] * 4
    facts = {record["step"]: record["facts"] for record in report["steps"]}
    assert facts["serve"]["clients_4"]["tokens_per_second"] > 0
    assert abs(facts["evaluate"]["loss"] - 8.35) < 0.5  # about log(4160): random weights
    assert not (tmp_path / "out" / "work").exists()
    assert done.stderr.count("\n") == 4
