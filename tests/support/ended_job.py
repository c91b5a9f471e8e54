"""A folder host with one job that ended, without its trainer, for tests of odd input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from jobs.contract import Job
from support.checkout import ROOT
from transfer import address
from transfer.host import host_at

JOB = Job("train", "folder", ("sh", "-c", "exit 3"), run_id="20261127-train")


class EndedJobDesk:
    """A laptop and a folder host with a job that ended."""

    def __init__(self, place):
        self.host, self.laptop = place / "host", place / "laptop"
        self.laptop.mkdir()
        self.there = self.host / "tandem"
        self.folder = self.there / ".jobs" / "train"
        self.folder.mkdir(parents=True)
        (self.there / "scripts").symlink_to(ROOT / "scripts")
        (self.there / ".venv-remote").symlink_to(sys.prefix)
        self.describe({})
        (self.folder / "exit").write_text("143\n")
        (self.folder / "pid").write_text("4194305\n")  # of no process
        (self.folder / "log.txt").write_text("a line\n")
        life = {"began": 1e9, "ended": 1e9 + 60, "code": 143, "hung": False}
        (self.folder / "lives.jsonl").write_text(json.dumps(life) + "\n")
        run = self.there / "adapters" / "runs" / JOB.run_id
        run.mkdir(parents=True)
        (run / "status.json").write_text('{"state": "stopped", "step": 5, "heartbeat": 1e9}')

    def describe(self, changes):
        (self.folder / "engine.json").write_text(json.dumps(json.loads(JOB.to_json()) | changes))

    def jobs(self, verb, *words):
        """(exit code, what it printed)"""
        env = os.environ | {"TANDEM_WORKDIR": str(self.laptop), "TANDEM_WATCH_SECONDS": "0.02"}
        command = [sys.executable, str(ROOT / "scripts" / "jobs.py"), verb, *words]
        done = subprocess.run([*command, "--host", str(self.host)], env=env, text=True, timeout=60,
                              capture_output=True, stdin=subprocess.DEVNULL)  # fmt: skip
        printed = done.stdout + done.stderr
        assert "Traceback" not in printed and done.returncode in (0, 1, 2), printed
        return done.returncode, printed

    def host_here(self):
        made = host_at(address.parse(str(self.host), "tandem"))
        made.open()
        return made
