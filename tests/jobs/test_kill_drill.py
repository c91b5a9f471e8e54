"""Thirty kills at random moments: of the trainer, its supervisor, the laptop's commands, of all.

After each the same command is given again. In the end it finishes, as one run whose adapter is that
of an undisturbed one; what was kept on the laptop is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time

import psutil
import pytest

from kit import publish
from support import stand_in_trainer
from support.jobs_desk import CONFIRMED, STAND_IN, JobsDesk
from support.processes import wait_until

pytestmark = pytest.mark.slow
KILLS = 30
STEPS = 15_000  # long enough to be at work through most of the kills
VICTIMS = ("trainer", "supervisor", "job", "submission", "keeper", "watch", "all")


class Drill:
    """A desk whose job `drilled` is disturbed. Each kill is written down, for when it fails."""

    def __init__(self, desk, dice):
        self.desk, self.dice, self.kills = desk, dice, []
        self.folder = desk.there / ".jobs" / "drilled"
        self.running = {}

    def start(self):
        """The same commands again, each unless it still runs."""
        desk = self.desk
        verbs = {"submission": ("run", *CONFIRMED, *desk.options), "keeper": ("keep",),
                 "watch": ("watch",)}  # fmt: skip
        for name, (verb, *rest) in verbs.items():
            process = self.running.get(name)
            if process is None or process.poll() is not None:
                if process:
                    self.must_be_one_line(process)
                self.running[name] = desk.start(*desk.words(verb, "drilled", *rest))

    def must_be_one_line(self, process):
        errors = process.communicate()[1]
        assert "Traceback" not in errors, (self.kills, errors)

    def kill(self, victim):
        self.kills.append(victim)
        for name in VICTIMS[:-1] if victim == "all" else (victim,):
            if name in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.running[name].pid, signal.SIGKILL)
            elif pid := self.pid_there(name):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if name == "job":
                        for child in process.children(recursive=True):
                            child.kill()
                    process.kill()

    def pid_there(self, name):
        """The process of the job; None where there is none, or its file is being written."""
        files = {"job": self.folder / "pid", "supervisor": self.folder / "supervisor.json"}
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError, psutil.Error):
            if name == "trainer":
                pid = int((self.desk.run_of("drilled") / "lives.txt").read_text().split()[-1])
            elif name == "supervisor":
                pid = json.loads(files[name].read_text())["pid"]
            else:
                pid = int(files[name].read_text())
            words = " ".join(psutil.Process(pid).cmdline())  # a number is given anew
            return pid if ".jobs/drilled" in words or "lora_trainer.py" in words else None
        return None

    def end(self):
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_thirty_kills_at_random_moments_and_the_same_command_finishes(tmp_path):
    dice = random.Random()
    desk = JobsDesk(tmp_path, STAND_IN)
    desk.options = ["--set", f"training.max_steps={STEPS}"]
    desk.environment["TANDEM_KEEPER__EVERY_SECONDS"] = "0.3"
    drill = Drill(desk, dice)
    try:
        for _ in range(KILLS):
            drill.start()
            moment = time.monotonic() + dice.uniform(0, 2)
            wait_until(lambda: time.monotonic() > moment)  # noqa: B023
            drill.kill(dice.choice(VICTIMS))
    finally:
        drill.end()
    must_finish(desk, drill)
    assert desk.adapter("drilled") == undisturbed(tmp_path), drill.kills


def undisturbed(place):
    """The SHA-256 of the adapter after as many steps without a kill."""
    value = bytes(32)
    for _ in range(STEPS):
        value = hashlib.sha256(value).digest()
    stand_in_trainer.write_adapter(place / "undisturbed", value)
    return publish.sha256(place / "undisturbed" / "adapter_model.safetensors")


def must_finish(desk, drill):
    """The same command, until it is done: one run; what is kept of it is whole."""
    desk.run(*desk.words("run", "drilled", *CONFIRMED, *desk.options), fails=None)
    wait_until(lambda: ended(desk, drill), problem=f"{drill.kills}: {desk.log('drilled')[-2000:]}")
    assert sum(run.endswith("-drilled") for run in desk.runs()) == 1, drill.kills
    desk.jobs("keep", "drilled", "--once")
    kept = desk.laptop / "adapters" / "runs" / desk.run_of("drilled").name / "checkpoints"
    assert all((folder / "trainer_state.json").exists() for folder in kept.iterdir())


def ended(desk, drill):
    """Whether the job is done; gives the command again where it is over without."""
    state = desk.state("drilled")
    if state not in ("running", "ended (0)"):
        desk.run(*desk.words("run", "drilled", *CONFIRMED, *desk.options), fails=None)
    return state == "ended (0)"
