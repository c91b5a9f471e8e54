"""The plan that comes before every training, and the token that proves that it was shown.

A plan is what `lora_trainer.py --dry-run --json` prints: the trainer's own, in a process of its
own. Its token starts exactly this training, once, and only while configuration, data, base model
(and the run that is resumed) are what they were. Tokens live as long as the server.

Two yeses, as everywhere: `safety.dry_run` is false in the configuration, or the request itself
overrides it (`safety.dry_run=false`); and the token, or the page's button, confirms the plan.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import secrets
import subprocess
import threading
from pathlib import Path
from typing import Any

from config import loader
from dashboard import training_jobs as jobs
from dashboard import training_runs as runs
from kit import console, paths, publish
from serving.api_errors import ApiError
from training import run_folder

KEPT = 50  # plans a server remembers
PATIENCE = 900  # seconds that a plan may take: it encodes every row
FIRST_YES = "safety.dry_run=false"


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be trained: a configuration by name with --set texts, or a run to resume."""

    config: str = "training_config.yaml"
    overrides: tuple[str, ...] = ()
    resume: str | None = None

    def words(self, *more: str) -> list[str]:
        """The lora_trainer.py call."""
        if self.resume:
            config = from_root(runs.folder(self.resume) / "config.yaml")
            return jobs.command(config, (), "--resume", self.resume, *more)
        return jobs.command(self.config, self.overrides, *more)

    def settings(self) -> Any:
        """The effective TrainingConfig; Misuse with every error in it."""
        if self.resume:
            config = runs.folder(self.resume) / "config.yaml"
            return loader.load(config, kind="training_config")
        name = jobs.refuse_foreign(self.config)
        return loader.load(name, self.overrides, kind="training_config")


@dataclasses.dataclass(frozen=True)
class StoredPlan:
    """A dry run's result: `facts` and `checks` are the trainer's; `obstacles` forbid the start."""

    token: str
    wish: Wish
    state: str  # the fingerprint of all that the plan depends on
    dry_run: bool
    facts: dict[str, Any]
    checks: list[dict[str, str]]

    @property
    def obstacles(self) -> list[str]:
        """What must be corrected before this can start, each with its remedy."""
        lines = [f"{c['name']}: {c['found']}; {c['fix']}" for c in self.checks
                 if c["status"] == "fail"]  # fmt: skip
        if self.dry_run:
            lines.insert(0, f"{DRY_RUN}; {DRY_RUN_REMEDY}")
        return lines

    def body(self) -> dict[str, Any]:
        """The plan as the API gives it."""
        return {
            "dry_run": True,
            "ready": not self.obstacles,
            "obstacles": self.obstacles,
            "plan": self.facts,
            "checks": self.checks,
            "token": self.token,
            "config": self.wish.config,
            "overrides": list(self.wish.overrides),
            "resume": self.wish.resume,
            "command": [jobs.PYTHON, *self.wish.words("--confirm-run")],
        }


def from_root(path: Path) -> str:
    """`path` as it is typed in the checkout: relative where it is below it."""
    below = path.is_relative_to(paths.ROOT)
    return str(path.relative_to(paths.ROOT)) if below else str(path)


DRY_RUN = "the configuration says safety.dry_run: true"
DRY_RUN_REMEDY = f"set it to false there, or plan again with the override {FIRST_YES}"


def fingerprint(wish: Wish, settings: Any) -> str:
    """A hash of all that a training depends on: configuration, data, base model, resumed run."""
    data = (settings.data.train_file, settings.data.val_file)
    depends: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "data": {name: _content(paths.workdir() / name) for name in data if name},
        "base": _base(settings.model.model_name_or_path),
    }
    if wish.resume:
        run = runs.folder(wish.resume)
        checkpoint = run_folder.last_checkpoint(run)
        depends["run"] = [runs.read_status(run)[0], checkpoint and checkpoint.name]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _content(file: Path) -> str | None:
    return publish.sha256(file) if file.is_file() else None


def _base(name: str) -> list[Any]:
    """Name, size and time of a base model's files: its gigabytes are hashed when it trains."""
    folder = paths.workdir() / name
    files = sorted(f for f in folder.glob("*") if f.is_file()) if folder.is_dir() else []
    return [name, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]]


class Plans:
    """The plans that a server has shown and not yet begun."""

    def __init__(self) -> None:
        self._plans: collections.OrderedDict[str, StoredPlan] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._planning = threading.Lock()  # one dry run at a time: each takes a core and memory

    def make(self, wish: Wish) -> StoredPlan:
        """Plan a wish; Misuse where the configuration is wrong, ApiError where it cannot be."""
        if wish.resume:
            if wish.overrides:
                raise console.Misuse(
                    "a run is resumed with the configuration it began with",
                    "leave the overrides out, or start a new run",
                )
            jobs.resumable(wish.resume)
        settings = wish.settings()
        state = fingerprint(wish, settings)
        with self._planning:
            planned = _dry_run(wish)
        plan = StoredPlan(
            secrets.token_urlsafe(24), wish, state, settings.safety.dry_run,
            planned["plan"], planned["checks"],
        )  # fmt: skip
        with self._lock:
            self._plans[plan.token] = plan
            while len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        return plan

    def get(self, token: str) -> StoredPlan:
        """The plan of a token; 412 if there is none, or it has expired."""
        with self._lock:
            plan = self._plans.get(token)
        if plan is None:
            text = "this plan is unknown, used already, or from before the server's restart"
            raise ApiError(412, "stale_plan", text, "plan again")
        return plan

    def start(self, token: str) -> dict[str, Any]:
        """Begin the planned training: {"run_id", "pid", "command"}.

        ApiError: 412 where something changed since the plan, 409 where a training runs, 422 where
        the plan names obstacles.
        """
        refusal = jobs.busy()
        if refusal:
            raise refusal
        plan = self.get(token)
        self._refuse_stale(plan)
        if plan.obstacles:
            reason = "dry_run" if plan.dry_run else "not_ready"
            raise ApiError(422, reason, "; ".join(plan.obstacles))
        run_id = plan.wish.resume or run_folder.new_id()
        more = ("--confirm-run",) if plan.wish.resume else ("--run-id", run_id, "--confirm-run")
        words = plan.wish.words(*more)
        job = jobs.start(paths.folder("runs") / run_id, words, bool(plan.wish.resume))
        with self._lock:
            self._plans.pop(token, None)
        return {"run_id": run_id, "pid": job["pid"], "command": job["command"]}

    def _refuse_stale(self, plan: StoredPlan) -> None:
        try:
            same = fingerprint(plan.wish, plan.wish.settings()) == plan.state
        except console.Problem:
            same = False
        if not same:
            text = "configuration, data, base model or run changed since the plan"
            raise ApiError(412, "stale_plan", text, "plan again")


def _dry_run(wish: Wish) -> dict[str, Any]:
    """The trainer's plan as its JSON object; Misuse with its message where it refuses."""
    words = wish.words("--dry-run", "--json")
    if wish.resume:  # a dry run looks at no run: the page says what it would resume
        cut = words.index("--resume")
        del words[cut : cut + 2]
    try:
        done = subprocess.run(
            [jobs.python(), *words], cwd=paths.ROOT, env=jobs.environment(), timeout=PATIENCE,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        text = f"the plan took more than {PATIENCE // 60} minutes"
        raise ApiError(500, "no_plan", text, "plan in a terminal: make train") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        shown = [line for line in done.stderr.splitlines() if line.strip()] or ["no plan"]
        words = shown[-1].removeprefix("lora_trainer.py: ")
        if done.returncode == console.MISUSED:
            raise console.Misuse(words)
        raise ApiError(500, "no_plan", words)
    return json.loads(lines[-1])
