"""A two-node Slurm of the test's own (tests/slurm.sh), and what an administrator does to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.checkout import ROOT
from support.processes import wait_until

SCRIPT = ROOT / "tests" / "slurm.sh"


class SlurmCluster:
    """Nodes gpu1 and gpu2 on loopback, for as long as the `with` block lasts."""

    def __init__(self, place: Path):
        self.place = place
        self.variables: dict[str, str] = {}

    def __enter__(self) -> SlurmCluster:
        ready = subprocess.run([SCRIPT, "available"], capture_output=True, text=True)
        if ready.returncode:
            pytest.skip(ready.stdout.strip())
        started = subprocess.run([SCRIPT, "start", self.place], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        self.variables = {"SLURM_CONF": started.stdout.strip().partition("=")[2]}
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([SCRIPT, "stop", self.place], check=True)

    def run(self, *words: str, check: bool = True) -> str:
        """A command of Slurm; what it printed."""
        path = os.environ["PATH"] + ":/usr/sbin"
        env = os.environ | self.variables | {"PATH": path}
        done = subprocess.run(words, capture_output=True, text=True, check=check, env=env)
        return done.stdout.strip()

    def node_of(self, number: str) -> str:
        """The node on which a job runs."""
        return self.run("squeue", "-h", "-j", number, "-o", "%N")

    def word(self, number: str) -> str:
        """The state of a job, '' once Slurm forgot it."""
        return self.run("squeue", "-h", "-j", number, "-o", "%T", check=False)

    def begin_now(self, number: str) -> None:
        """Start a queued job again: after a requeue Slurm lets two minutes pass.

        Not in the same second: the node refuses a credential of the second of the last end.
        """
        wait_until(lambda: self.word(number) == "PENDING", problem="it is not queued again")
        soon = time.monotonic() + 1.5
        wait_until(lambda: time.monotonic() > soon)
        self.run("scontrol", "update", f"JobId={number}", "StartTime=now")

    def crash(self, node: str) -> None:
        """Kill a node's slurmd and every process that it started, as a power cut does."""
        import psutil

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                here = variables.get("SLURM_CONF") == self.variables["SLURM_CONF"]
                if here and variables.get("SLURMD_NODENAME") == node:
                    step = process.parent()
                    if step and "slurmstepd" in (step.name(), *step.cmdline()[:1]):
                        step.kill()
                    process.kill()
        os.kill(self.daemon(node), signal.SIGKILL)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=crash")

    def daemon(self, node: str) -> int:
        """The process id of a node's slurmd."""
        return int((self.place / f"slurmd-{node}.pid").read_text())

    def boot(self, node: str) -> None:
        """Start the node's slurmd again, and let it take jobs."""
        self.run("slurmd", "-N", node)
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        ready = ("idle", "mixed", "allocated")
        look = ("sinfo", "-h", "-p", "main", "-n", node, "-o", "%T")
        wait_until(lambda: self.run(*look) in ready, problem=f"{node} is {self.run(*look)}")
