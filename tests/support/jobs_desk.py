"""A laptop and a host for tests of jobs: a checkout on each, scripts/jobs.py run as a user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import publish
from support.checkout import ROOT
from support.processes import wait_until

STEPS = 40
STAND_IN = ROOT / "tests" / "support" / "stand_in_trainer.py"
CONFIRMED = ("--confirm", "--set", "safety.dry_run=false")


def kit_files() -> list[str]:
    """What a host gets of this checkout: scripts and configurations."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    kept = ("scripts/", "configs/")
    return [n for n in names.split("\0") if n.startswith(kept) and (ROOT / n).is_file()]


class JobsDesk:
    """A laptop's folder and a host's checkout. `trainer`: what stands there for lora_trainer.py."""

    def __init__(self, place: Path, trainer: Path | None = None, home: Path | None = None):
        self.host, self.laptop = str(home or place / "host"), place / "laptop"
        self.there = Path(self.host) / "tandem"
        self.environment: dict[str, str] = {}
        self.prefix: list[str] = []  # words before every command of the laptop
        self.engine: list[str] = []
        self.options = ["--set", f"training.max_steps={STEPS}"]
        self.laptop.mkdir(parents=True, exist_ok=True)
        make_checkout(self.there, trainer)

    def with_whole_run(self) -> JobsDesk:
        """The desk, once its undisturbed run `whole` is complete."""
        self.train("whole")
        self.wait("whole", 0)
        return self

    def run(self, *words: object, fails: int | None = 0) -> subprocess.CompletedProcess:
        """A command of the laptop; its exit code must be `fails` unless that is None."""
        done = subprocess.run(
            self.prefix + [str(word) for word in words], env=self._environment(), text=True,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        assert fails is None or done.returncode == fails, done.stderr + done.stdout
        return done

    def start(self, *words: object) -> subprocess.Popen:
        """The same in the background, in a session of its own; stderr is kept."""
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(
            self.prefix + [str(word) for word in words], env=self._environment(), text=True,
            stdout=nothing, stderr=pipe, stdin=nothing, start_new_session=True,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        own = {"TANDEM_WORKDIR": str(self.laptop), "TANDEM_WATCH_SECONDS": "0.1",
               "TANDEM_RETRY_WAIT": "0.1"}  # fmt: skip
        return os.environ | own | self.environment

    def words(self, verb: str, *rest: object, host: object = None) -> list[str]:
        """The words of scripts/jobs.py VERB on this desk's host, or on another."""
        script = str(ROOT / "scripts" / "jobs.py")
        return [sys.executable, script, verb, "--host", str(host or self.host), *map(str, rest)]

    def jobs(self, verb: str, *rest: object, host: object = None, fails: int = 0) -> str:
        """What scripts/jobs.py prints, both streams."""
        done = self.run(*self.words(verb, *rest, host=host), fails=fails)
        return done.stdout + done.stderr

    def train(self, name: str, *words: object, fails: int = 0) -> str:
        """Submit a training."""
        rest = (*self.engine, *words, *CONFIRMED, *self.options)
        return self.jobs("run", name, *rest, fails=fails)

    def hold(self, place: str) -> None:
        """The next training waits at this place (stand_in_trainer.py)."""
        (self.there / "hold").write_text(place)

    def wait_held(self, place: str) -> None:
        """Wait until a training waits at that place."""
        held = self.there / "held"
        wait_until(lambda: held.exists() and held.read_text() == place, problem=f"not at {place}")

    def release(self) -> None:
        """Let it go on."""
        (self.there / "hold").unlink(missing_ok=True)

    def state(self, name: str) -> str:
        """The state of a job as `jobs list` gives it."""
        rows = json.loads(self.jobs("list", "--json").splitlines()[0])["jobs"]
        return next(row["state"] for row in rows if row["job"] == name)

    def wait(self, name: str, code: int) -> None:
        """Wait for the job's end, which must be with this exit code."""
        file = self.there / ".jobs" / name / "exit"
        self.wait_for(file.exists, name)
        assert file.read_text() == f"{code}\n", self.log(name)[-2000:]

    def wait_for(self, condition: Callable[[], Any], name: str) -> None:
        """Wait for something about a job; the end of its log where it does not come."""
        try:
            wait_until(condition, seconds=180)
        except AssertionError:
            raise AssertionError(f"{name}: {self.log(name)[-2000:]}") from None

    def log(self, name: str) -> str:
        """The job's log."""
        file = self.there / ".jobs" / name / "log.txt"
        return file.read_text() if file.exists() else ""

    def run_of(self, name: str) -> Path:
        """The folder of the job's run on the host."""
        job = json.loads((self.there / ".jobs" / name / "engine.json").read_text())
        return self.there / "adapters" / "runs" / job["run_id"]

    def adapter(self, name: str) -> str:
        """The SHA-256 of the weights that the job's run ended with."""
        return publish.sha256(self.run_of(name) / "final" / "adapter_model.safetensors")

    def runs(self) -> list[str]:
        """The ids of all runs on the host."""
        return sorted(p.name for p in (self.there / "adapters" / "runs").iterdir())

    def step(self, name: str) -> int:
        """The last step that the run's status names."""
        return json.loads((self.run_of(name) / "status.json").read_text())["step"]


def make_checkout(there: Path, trainer: Path | None) -> None:
    """The kit as a host has it, with this interpreter's environment."""
    for name in kit_files():
        target = there / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    environment = Path(sys.prefix)
    (there / ".venv-remote").symlink_to(environment)
    if trainer:
        shutil.copy2(trainer, there / "scripts" / "lora_trainer.py")
