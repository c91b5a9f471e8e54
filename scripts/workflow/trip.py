"""The whole trip, stage by stage: data, up to the host, training there, and back, verified."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from adapters import metrics
from kit import console, paths
from workflow.stages import Stage, StageFailed, Stages

REHEARSAL = paths.ROOT / ".rehearsal"
MINIATURE = (
    "data/synthetic/miniature"  # it travels up with the synthetic data; real models never do
)
# What a rehearsal changes in training_config.yaml; LoRA and quantisation stay as configured.
REHEARSAL_SETTINGS = {
    "model.model_name_or_path": MINIATURE,
    "model.model_revision": "null",
    "model.chat_template": "null",
    "training.max_steps": 60,
    "training.max_length": 1024,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-2,  # a model of 64 dimensions wants larger steps than one of 4096
    "training.packing": "false",
    "training.logging_steps": 10,
    "training.eval_strategy": "steps",
    "training.eval_steps": 30,
    "training.save_strategy": "steps",
    "training.save_steps": 30,
    "training.report_to": "none",
    "safety.min_free_disk_gb": 1.0,
}


class Trip:
    """Where a trip's two ends lie, and how its commands run on each."""

    def __init__(self, args):
        self.rehearsal, self.raw, self.confirm = args.rehearse, args.raw, args.confirm
        self.name = args.name or ("rehearsal" if args.rehearse else "mapper-lora")
        home = REHEARSAL if self.rehearsal else paths.ROOT / ".cache" / "trip"
        self.stages = Stages(home / "log")
        self.laptop = REHEARSAL / "laptop" if self.rehearsal else paths.workdir()
        self.host = args.host or (str(REHEARSAL / "host") if self.rehearsal else "")
        self.local_folder = self.host.startswith(("/", "./", "../"))
        self.remote_dir = paths.load()["remote_dir"]
        self.home_dir = self.remote_dir  # where the host's environment stands
        if self.rehearsal:
            self.remote_dir += "-rehearsal"
        self.env = os.environ | {"TANDEM_WORKDIR": str(self.laptop), "TANDEM_ENV": "local"}
        self.env |= {"REMOTE_DIR": self.remote_dir, "HF_HUB_OFFLINE": "1", "HOST": self.host}
        if self.rehearsal:  # a miniature is slower with more threads
            self.env["OMP_NUM_THREADS"] = "1"
        laptop_only = ("TANDEM_WORKDIR", "TANDEM_ENV")
        self.host_env = {k: v for k, v in self.env.items() if k not in laptop_only}
        self.result: dict[str, Any] = {}

    def here(self, environment: str, script: str, *arguments: object) -> list[str]:
        """A command of the kit on this machine."""
        python = paths.ROOT / f".venv-{environment}" / "bin" / "python"
        return [str(python), str(paths.ROOT / "scripts" / script), *map(str, arguments)]

    def there(self, script: str, *arguments: object) -> list[str]:
        """A command of the kit on the host, in its environment."""
        words = [".venv-remote/bin/python", f"scripts/{script}", *map(str, arguments)]
        return self.on_host(*words)

    def manager(self, stage: str, *arguments: object) -> list[str]:
        """One stage of the training manager, which goes on where it stopped."""
        words = [".venv-remote/bin/python", "scripts/training_manager.py", "--stage", stage]
        return [*words, "--json", *map(str, arguments)]

    def on_host(self, *words: str, job: str = "") -> list[str]:
        """Words run on the host in REMOTE_DIR; as a detached `job` where one is named."""
        detached = ["--detach", job] if job else []
        return [str(paths.ROOT / "scripts" / "host_run.sh"), self.host, *detached, "--", *words]

    def settings(self, confirmed: bool) -> list[str]:
        """The --set options of the trainer."""
        values = dict(REHEARSAL_SETTINGS) if self.rehearsal else {}
        if confirmed and self.rehearsal:
            values["safety.dry_run"] = "false"
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


# --- the stages -------------------------------------------------------------------------------


def set_up(trip: Trip, s: Stage) -> None:
    """Both environments; the stand-in host uses this checkout's own."""
    s.run([paths.ROOT / "setup_local.sh"])
    s.run([paths.ROOT / "setup_remote.sh", "--here", "--allow-cpu"])
    s.says("both environments verified")


def make_data(trip: Trip, s: Stage) -> None:
    """Raw text, or generated examples, to rows."""
    out = trip.laptop / "data" / "processed"
    if not trip.rehearsal and not trip.raw and (out / "manifest.json").is_file():
        s.says(f"data/processed as it is: {_rows(out)}")
        return
    source = ["--input", trip.raw] if trip.raw else []
    limit = ["--max-samples", 1000] if trip.rehearsal else []
    s.run(
        trip.here("local", "data_prep.py", *source, *limit, "--out-dir", out, "--confirm"),
        env=trip.env,
    )
    s.says(f"{_rows(out)} from {trip.raw or 'generated examples'}")


def _rows(folder: Path) -> str:
    def count(name: str) -> int:
        with (folder / name).open("rb") as f:
            return sum(1 for _ in f)

    train, val = count("train_sft.jsonl"), count("val_sft.jsonl")
    return f"{train:,} training and {val:,} validation rows"


def make_miniature(trip: Trip, s: Stage) -> None:
    """A tiny model of the configured family, trained on the rows' language."""
    rows = trip.laptop / "data" / "processed" / "train_sft.jsonl"
    out = trip.laptop / MINIATURE
    command = trip.here("remote", "build_miniature.py", "--data", rows, "--out", out, "--json")
    facts = s.json(command, env=trip.env)
    s.says(f"{facts['family']}, {facts['parameters']:,} parameters")


def sync_up(trip: Trip, s: Stage) -> None:
    """Kit, configs and data to the host; a rehearsal borrows the host's environment."""
    if trip.local_folder:
        Path(trip.host).mkdir(parents=True, exist_ok=True)
    s.run([paths.ROOT / "scripts" / "sync_to_remote.sh", trip.host], env=trip.env)
    if not (trip.rehearsal and trip.local_folder):
        s.run(
            [paths.ROOT / "setup_remote.sh", trip.host, *(["--allow-cpu"] * trip.rehearsal)],
            env=trip.env | {"REMOTE_DIR": trip.home_dir},
        )
    if trip.rehearsal:
        stands = paths.ROOT if trip.local_folder else Path("..") / trip.home_dir
        s.run(
            trip.on_host("ln", "-sfn", str(stands / ".venv-remote"), ".venv-remote"),
            env=trip.host_env,
        )
    s.says(f"to {_shown(trip.host)}")


def validate(trip: Trip, s: Stage) -> None:
    """Every check of the host."""
    allow = ["--allow-cpu"] if trip.rehearsal else []
    checks = s.json(
        trip.there("validate_environment.py", "--env", "remote", "--json", *allow),
        env=trip.host_env,
    )["checks"]
    counts = {status: sum(c["status"] == status for c in checks) for status in ("ok", "warn")}
    s.says(f"{counts['ok']} checks good, {counts['warn']} warnings")


def plan(trip: Trip, s: Stage) -> None:
    """The trainer's dry run: what it would do, and that nothing is missing."""
    words = trip.manager("lora", *trip.settings(False))
    made = s.json(trip.on_host(*words), env=trip.host_env)["stages"]["lora"]
    if "plan" not in made:
        s.says(made["why"])
        return
    made = made["plan"]
    loss = made["data"]["train"]["supervised_tokens"]
    s.says(f"{made['method']}, {made['steps']} steps, {loss:,} tokens with loss an epoch")


def train(trip: Trip, s: Stage) -> None:
    """The training, with both opt-ins. A real one is detached: it outlives the connection."""
    words = trip.manager("lora", "--confirm", *trip.settings(True))
    if not trip.rehearsal:
        try:
            s.run(trip.on_host(*words, job="train"), env=trip.host_env)
        except StageFailed as failure:
            if "is running already" not in str(failure):
                raise
        s.run([paths.ROOT / "scripts" / "host_watch.sh", trip.host, "train"], env=trip.host_env)
    trip.result["run"] = s.json(trip.on_host(*words), env=trip.host_env)["run"]
    s.says(f"run {trip.result['run']}")


def evaluate(trip: Trip, s: Stage) -> None:
    """Base and adapter side by side on the validation rows."""
    few = {"data.max_samples": 64, "generation.max_new_tokens": 48} if trip.rehearsal else {}
    sets = [word for key, value in few.items() for word in ("--set", f"eval:{key}={value}")]
    words = trip.manager("eval", "--confirm", *sets, *trip.settings(True))
    made = s.json(trip.on_host(*words), env=trip.host_env)
    trip.result |= {"before": made["before"], "after": made["after"]}
    s.says(f"loss {_value(made['before'], 'loss')} -> {_value(made['after'], 'loss')}")


def sync_down(trip: Trip, s: Stage) -> None:
    """The run and its reports, complete or not at all."""
    s.run([paths.ROOT / "scripts" / "sync_from_remote.sh", trip.host], env=trip.env)
    s.says(f"adapters/runs/{trip.result['run']}")


def register(trip: Trip, s: Stage) -> None:
    """A version of the run, verified against its card and loaded on this machine."""
    run = trip.laptop / "adapters" / "runs" / trip.result["run"]
    made = s.json(
        trip.here("local", "checkpoint_manager.py", "register", run, "--name", trip.name, "--json"),
        env=trip.env,
    )
    trip.result["adapter"] = reference = made["reference"]
    s.run(trip.here("local", "checkpoint_manager.py", "verify", reference), env=trip.env)
    if trip.rehearsal:
        s.run(trip.here("remote", "checkpoint_manager.py", "load", reference), env=trip.env)
    s.says(f"{reference} verified" + (" and loaded here" if trip.rehearsal else ""))


REHEARSED = (
    ("set-up", set_up),
    ("data", make_data),
    ("miniature", make_miniature),
    ("sync up", sync_up),
    ("validate", validate),
    ("dry run", plan),
    ("train", train),
    ("evaluate", evaluate),
    ("sync down", sync_down),
    ("adapter", register),
)
REAL = tuple(pair for pair in REHEARSED if pair[0] not in ("set-up", "miniature"))
PLANNED = tuple(pair for pair in REAL if pair[0] in ("data", "sync up", "validate", "dry run"))


# --- the end ----------------------------------------------------------------------------------


def _value(measured: dict[str, Any], name: str) -> str:
    return f"{measured[name]['value']:.3f}" if name in measured else "?"


def _shown(host: str) -> str:
    return paths.show(host) if host.startswith("/") else host


def finish(trip: Trip, seconds: float) -> None:
    """What was learnt, where the adapter is, and the next command; report.json keeps it."""
    before, after = trip.result["before"], trip.result["after"]
    print(f"\n{'':14}{'before':>8}  {'after':>8}")
    for name in (metric.name for metric in metrics.METRICS):
        print(f"  {name:<12}{_value(before, name):>8}  {_value(after, name):>8}")
    version = trip.result["adapter"].replace("@", "/")
    folder = trip.laptop / "adapters" / version
    run = trip.laptop / "adapters" / "runs" / trip.result["run"]
    print(f"\nadapter  {trip.result['adapter']}  {paths.show(folder)}")
    print(f"report   {paths.show(run / 'report.html')}")
    print(f"time     {console.duration(seconds)}")
    if trip.rehearsal:
        trip.result |= {"seconds": seconds, "stages": trip.stages.done}
        (REHEARSAL / "report.json").write_text(json.dumps(trip.result, indent=2) + "\n")
        raw = f" RAW={shlex.quote(str(trip.raw))}" if trip.raw else ""
        host = "gpu1" if trip.local_folder else trip.host
        print("\nOn a real host, with the configured model:")
        print(f"  make pipeline HOST={host}{raw} CONFIRM=1")


def refuse_early(args) -> None:
    """What is wrong with the call is said before any work."""
    if args.raw and not Path(args.raw).exists():
        raise console.Misuse(f"RAW={args.raw}: no such file or folder", "give a path that exists")
    for tool in ("rsync", "ssh"):
        if not (shutil.which(tool) or (tool == "rsync" and os.environ.get("RSYNC"))):
            raise console.Problem(f"{tool} is not installed here", f"install {tool}, then again")
    if args.host is None and not args.rehearse:
        args.host = paths.load()["host"]
        if not args.host:
            raise console.Misuse(
                "no host was named",
                "HOST=gpu1, HOST=./folder, or host in configs/paths_config.json",
            )
    if args.host:
        probe = [str(paths.ROOT / "scripts" / "host_probe.sh"), args.host]
        done = subprocess.run(probe, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise console.Problem(_last_line(done.stderr), code=done.returncode)


def _last_line(text: str) -> str:
    """What a command said last, without its name."""
    return (text.strip().splitlines() or ["host_probe.sh failed"])[-1].partition(": ")[2]


@contextlib.contextmanager
def alone(folder: Path):
    """One rehearsal of a checkout at a time; starts from nothing."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise console.Problem("another rehearsal is running here", "wait for its end") from None
        for name in ("laptop", "host", "log"):
            shutil.rmtree(folder / name, ignore_errors=True)
        yield


def take(args) -> Trip:
    """Go through the stages that the call asks for; the trip with its result."""
    trip = Trip(args)
    chosen = REHEARSED if args.rehearse else REAL if args.confirm else PLANNED
    for name, work in chosen:
        with trip.stages.stage(name) as s:
            work(trip, s)
    return trip
