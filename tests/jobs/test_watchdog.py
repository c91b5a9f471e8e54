"""The supervisor on a host: hung runs, budgets, lives that nobody saw end, commands at the end."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from jobs import at_end, contract, forecast, life, watchdog
from jobs.contract import Job
from support.checkout import ROOT
from support.processes import wait_until

RUN = "20261127-train"
# A run of a few steps; PLAN says what it does after them. It saves on TERM unless it is deaf.
STAND_IN = """
import ctypes, faulthandler, json, os, signal, sys, threading, time
from pathlib import Path
faulthandler.register(signal.SIGUSR1)
plan, run = sys.argv[1], Path("adapters/runs") / sys.argv[3]
run.mkdir(parents=True, exist_ok=True)
lives = run / "lives.txt"
lives.open("a").write(sys.argv[2] + "\\n")
life = len(lives.read_text().splitlines())
def status(**values):
    part = run / "part"
    part.write_text(json.dumps({"max_steps": 1000} | values))
    os.replace(part, run / "status.json")
def stop(number, frame):
    (run / "checkpoint").write_text("saved")
    status(state="stopped")
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
def a_waiting_worker():
    time.sleep(600)
threading.Thread(target=a_waiting_worker, daemon=True).start()
for step in range(30):
    status(state="running", phase="training", step=step)
    time.sleep(0.01)
if plan == "deaf" or (plan == "once" and life == 1):
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    for _ in range(2):  # waits for itself, the interpreter held: no handler of Python's can run
        libc.pthread_mutex_lock(mutex)
if plan == "asleep":
    time.sleep(600)
if plan == "long":
    while True:
        step += 1
        status(state="running", phase="training", step=step)
        time.sleep(0.01)
status(state="completed", step=1000)
"""


@dataclasses.dataclass
class Place:
    """A host's checkout with one job."""

    root: object
    job: Job

    @property
    def folder(self):
        return self.root / ".jobs" / "train"

    def start(self, **changes):
        """The supervisor of the job, with quick looks."""
        job = dataclasses.replace(self.job, **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "engine.json").write_bytes(job.to_json())
        (self.folder / "exit").unlink(missing_ok=True)
        env = os.environ | {"TANDEM_SUPERVISOR_SECONDS": "0.05", "TANDEM_HUNG_GRACE": "0.3"}
        command = [sys.executable, str(ROOT / "scripts/jobs/supervisor.py"), ".jobs/train"]
        return subprocess.Popen(command, cwd=self.root, env=env)

    def run(self, **changes):
        """Its exit code, once it has ended."""
        return self.start(**changes).wait(timeout=60)

    def log(self):
        return (self.folder / "log.txt").read_text()

    def lives(self):
        return contract.lives((self.folder / "lives.jsonl").read_text())

    def status(self):
        return json.loads((self.root / "adapters/runs" / RUN / "status.json").read_text())


@pytest.fixture
def place(tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    words = (sys.executable, "stand_in.py", "asleep")
    return Place(tmp_path, Job("train", "folder", words, run_id=RUN, grace_seconds=0.0))


def doing(place, plan):
    return (*place.job.words[:2], plan)


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "code"), [("asleep", 143), ("deaf", 137)])
def test_a_hung_run_is_ended_with_every_stack_in_the_log_and_its_own_state(place, plan, code):
    ended = place.run(words=doing(place, plan), hung_seconds=0.5, hung_factor=2.0, max_restarts=1)
    assert ended == code and (place.folder / "exit").read_text() == f"{code}\n"
    log = place.log()
    assert "hung: nothing after step 29 for" in log and "it hung; it goes on" in log
    assert "a_waiting_worker" in log and log.count("most recent call first") >= 4
    assert (place.root / "adapters/runs" / RUN / "lives.txt").read_text() == "--run-id\n--resume\n"
    assert place.lives()[-1]["why"] == "hung"
    if plan == "deaf":
        assert place.status()["state"] == "hung"
    else:  # it could still save
        assert (place.root / "adapters/runs" / RUN / "checkpoint").exists()


@pytest.mark.slow
def test_a_run_that_hangs_once_goes_on_and_ends_well(place):
    assert place.run(words=doing(place, "once"), hung_seconds=0.5, hung_factor=2.0) == 0
    assert place.status()["state"] == "completed" and place.lives()[-1]["why"] == ""


@pytest.mark.slow
def test_at_its_limit_a_run_is_saved_and_ends_with_its_own_state(place):
    ended = place.run(words=doing(place, "long"), cap_seconds=1.5, rate=2.0, budget=1.0)
    assert ended == 143 and place.lives()[-1]["why"] == "budget"
    assert "its time is up" in place.log() and place.status()["state"] == "stopped"
    assert "ENDS IT, with a checkpoint, at about step" in place.log()


@pytest.mark.slow
def test_a_life_that_nobody_saw_end_counts_for_the_budget(place):
    place.folder.mkdir(parents=True)
    began = time.time() - 7200
    (place.folder / "life.json").write_text(json.dumps({"began": began, "ended": began + 3600}))
    assert place.run(words=doing(place, "long"), cap_seconds=3600.5) == 143
    lost, last = place.lives()
    assert (lost["why"], last["why"]) == ("lost", "budget")
    assert contract.seconds([lost]) == pytest.approx(3600)
    assert not (place.folder / "life.json").exists()


@pytest.mark.slow
def test_commands_at_the_end_run_once_each_and_are_told_loudly(place):
    commands = {
        "notify": 'echo "$TANDEM_JOB $TANDEM_CODE" >>notified',
        "stop_command": "echo >>stopped",
    }
    for _ in range(2):
        assert place.run(words=doing(place, "no"), **commands) == 0
    assert (place.root / "notified").read_text() == "train 0\n"
    assert (place.root / "stopped").read_text() == "\n"
    assert "THE HOST ENDS in 0 s by its stop command: echo >>stopped" in place.log()


@pytest.mark.slow
def test_without_commands_nothing_is_said_to_end_the_host(place):
    assert place.run(words=doing(place, "no")) == 0
    assert "HOST ENDS" not in place.log()
    assert not list(place.folder.glob("*.done"))


@pytest.mark.slow
@pytest.mark.parametrize("why", ["the file", "submitted again", "another job"])
def test_the_stop_command_is_called_off(place, why):
    process = place.start(words=doing(place, "no"), stop_command="echo >>stopped", grace_seconds=60)
    wait_until(lambda: (place.folder / "log.txt").exists() and "HOST ENDS" in place.log())
    if why == "the file":
        (place.folder / "stop.done").touch()
    elif why == "submitted again":
        (place.folder / "exit").unlink()
    else:
        (place.folder.parent / "other").mkdir()
        (place.folder.parent / "other" / "life.json").write_text('{"began": 1, "ended": 2}')
    assert process.wait(timeout=30) == 0
    assert "the stop command is called off" in place.log() and not (place.root / "stopped").exists()


# --- without a process ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "cap", "line"),
    [
        ([(0, 0.0), (19, 19.0)], 0.0, ""),
        ([(0, 0.0), (20, 20.0)], 0.0, "measured: 1.00 s a step, about 1 min 40 s in all"),
        ([(50, 5.0), (70, 25.0)], 0.0, "about 55.0 s in all"),
        ([(0, 0.0), (20, 20.0)], 60.0, "ENDS IT, with a checkpoint, at about step 60 of 100"),
    ],
)
def test_twenty_steps_tell_whether_the_budget_reaches_the_end(steps, cap, line):
    job = Job("x", "folder", ("x",), run_id=RUN, cap_seconds=cap, rate=3.6)
    watched, text = forecast.Forecast(job), ""
    for step, elapsed in steps:
        text = watched.line({"step": step, "max_steps": 100}, 0.0, elapsed)
    assert line in text and bool(line) is bool(text)
    assert not text or not watched.line({"step": 99, "max_steps": 100}, 0.0, 99.0)


@pytest.mark.parametrize("odd", [None, True, -1, "5", float("nan"), [1]])
def test_an_odd_status_forecasts_nothing(odd):
    watched = forecast.Forecast(Job("x", "folder", ("x",), run_id=RUN))
    assert watched.line({"step": odd, "max_steps": 100}, 0.0, 1.0) == ""
    assert watched.line({"step": 1, "max_steps": odd}, 0.0, 1.0) == ""


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"began": 1}', '{"began": NaN, "ended": 1}',
     '{"began": 1e999, "ended": 1}', "[" * 9999],
)  # fmt: skip
def test_a_damaged_life_counts_nothing(tmp_path, text):
    (tmp_path / "life.json").write_text(text)
    life.settle_lost(tmp_path)
    assert contract.spent_seconds(tmp_path) == 0.0 and not (tmp_path / "life.json").exists()


def test_a_status_of_an_earlier_life_does_not_excuse_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "adapters" / "runs" / RUN
    run.mkdir(parents=True)
    (run / "status.json").write_text('{"state": "stopped", "step": 5}')
    watch = watchdog.Watchdog(Job("train", "folder", ("x",), run_id=RUN))
    assert not watch.hung(0.0) and watch.hung(3700.0)


def test_each_command_runs_once_also_where_it_fails(tmp_path):
    job = Job("train", "folder", ("x",), notify="echo x >>notified; exit 3")
    lines = []
    monkey = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(2):
            at_end.run(tmp_path, job, 1, lines.append)
    finally:
        os.chdir(monkey)
    assert (tmp_path / "notified").read_text() == "x\n"
    assert lines == [f"notify: {job.notify}", "notify ended with 3"]
