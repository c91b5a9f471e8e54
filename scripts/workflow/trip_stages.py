"""The stages of the trip: data, up to the host, training there, and back, verified.

Each is a function (trip, stage) that runs commands of the kit and says what came of it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from config import options
from kit import paths, publish
from workflow.stages import Stage, StageFailed
from workflow.trip import (
    MINIATURE,
    Trip,
    checked_field,
    checked_metrics,
    checked_run_id,
)

MOST_JOBS = 100  # of one stage on one host, over all trips


def set_up(trip: Trip, stage: Stage) -> None:
    """Both environments; the stand-in host uses this checkout's own."""
    stage.run([paths.ROOT / "setup_local.sh"])
    stage.run([paths.ROOT / "setup_remote.sh", "--here", "--allow-cpu"])
    stage.set_fact("both environments verified")


def make_data(trip: Trip, stage: Stage) -> None:
    """Raw text, or generated examples, to rows."""
    out = trip.laptop / "data" / "processed"
    if not trip.rehearsal and not trip.raw and (out / "manifest.json").is_file():
        stage.set_fact(f"data/processed as it is: {row_counts(out)}")
        return
    source = ["--input", trip.raw] if trip.raw else []
    limit = ["--max-samples", 1000] if trip.rehearsal else []
    words = trip.local("local", "data_prep.py", *source, *limit, "--out-dir", out, "--confirm")
    stage.run(words, env=trip.env)
    stage.set_fact(f"{row_counts(out)} from {trip.raw or 'generated examples'}")


def row_counts(folder: Path) -> str:
    """How many rows a folder's two files have, in words."""

    def count(name: str) -> int:
        with (folder / name).open("rb") as f:
            return sum(1 for _ in f)

    train, val = count("train_sft.jsonl"), count("val_sft.jsonl")
    return f"{train:,} training and {val:,} validation rows"


def make_miniature(trip: Trip, stage: Stage) -> None:
    """A tiny model of the configured one's architecture, trained on the rows' language.

    The configured model is looked for in this checkout: a rehearsal's own folder has none.
    """
    rows = trip.laptop / "data" / "processed" / "train_sft.jsonl"
    out = trip.laptop / MINIATURE
    command = trip.local("remote", "build_miniature.py", "--data", rows, "--out", out, "--json")
    facts = stage.json(command, env=trip.env | {"TANDEM_WORKDIR": str(paths.workdir())})
    note = f"; {facts['note']}" if "note" in facts else ""
    stage.set_fact(f"{facts['family']}, {facts['parameters']:,} parameters{note}")


def sync_up(trip: Trip, stage: Stage) -> None:
    """Kit, configs and data to the host; a rehearsal borrows the host's environment."""
    if trip.local_folder:
        Path(trip.host).mkdir(parents=True, exist_ok=True)
    stage.run([paths.ROOT / "scripts" / "sync_to_remote.sh", trip.host], env=trip.env)
    if not (trip.rehearsal and trip.local_folder):
        words = [paths.ROOT / "setup_remote.sh", trip.host]
        words += ["--allow-cpu"] if trip.rehearsal else []
        stage.run(words, env=trip.env | {"REMOTE_DIR": trip.home_dir})
    if trip.rehearsal:
        checkout = paths.ROOT if trip.local_folder else Path("..") / trip.home_dir
        words = trip.on_host("ln", "-sfn", str(checkout / ".venv-remote"), ".venv-remote")
        stage.run(words, env=trip.host_env)
    stage.set_fact(f"to {trip.shown_host()}")


def validate(trip: Trip, stage: Stage) -> None:
    """Every check of the host."""
    allow = ["--allow-cpu"] if trip.rehearsal else []
    words = trip.remote("validate_environment.py", "--env", "remote", "--json", *allow)
    answer = stage.json(words, env=trip.host_env)
    checks = checked_field(answer, trip.host, "checks", kind=list)
    statuses = [checked_field(check, trip.host, "status", kind=str) for check in checks]
    stage.set_fact(f"{statuses.count('ok')} checks good, {statuses.count('warn')} warnings")


def plan(trip: Trip, stage: Stage) -> None:
    """The trainer's dry run: what it would do, and that nothing is missing."""
    answer = stage.json(
        trip.on_host(*trip.manager("lora", *trip.settings(False))), env=trip.host_env
    )
    task = checked_field(answer, trip.host, "stages", "lora", kind=dict)
    if "plan" not in task:
        stage.set_fact(checked_field(task, trip.host, "why", kind=str))
        return
    method = checked_field(task, trip.host, "plan", "method", kind=str)
    steps = checked_field(task, trip.host, "plan", "steps", kind=int)
    keys = ("plan", "data", "train", "supervised_tokens")
    tokens = checked_field(task, trip.host, *keys, kind=int)
    stage.set_fact(f"{method}, {steps} steps, {tokens:,} tokens with loss an epoch")


def train(trip: Trip, stage: Stage) -> None:
    """The training, with both opt-ins. A real one is a job: it outlives the connection."""
    if trip.nodes > 1:
        train_on_nodes(trip, stage)
        return
    words = trip.manager("lora", "--confirm", *trip.settings(True))
    if trip.uses_jobs:
        as_job(trip, stage, "train", words, trip.manager("lora", *trip.settings(True)))
    answer = stage.json(trip.on_host(*words), env=trip.host_env)
    trip.result["run"] = checked_run_id(answer, trip.host)
    stage.set_fact(f"run {trip.result['run']}")


def train_on_nodes(trip: Trip, stage: Stage) -> None:
    """The training as a job of several machines: torchrun starts the trainer itself on each.

    The job is named by what it trains, so the same trip again finds it.
    """
    manifest = trip.laptop / "data" / "processed" / "manifest.json"
    files = [manifest, paths.ROOT / "configs" / "training_config.yaml"]
    facts = [publish.sha256(file) for file in files if file.is_file()] + trip.settings(True)
    name = f"train-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:8]}"
    try:
        words = (*trip.job_options(), "--confirm", *trip.settings(True))
        stage.run(trip.job("run", name, *words), env=trip.env)
        stage.run(trip.job("watch", name), env=trip.env)
    except StageFailed as failure:
        if "is completed" not in failure.text:
            raise
    rows = stage.json(trip.job("list", name, "--json"), env=trip.env)["jobs"]
    [row] = [row for row in rows if row["job"] == trip.job_name(name)]
    trip.result["run"] = checked_run_id(row, trip.host)
    stage.set_fact(f"run {trip.result['run']} on {trip.nodes} machines")


def as_job(
    trip: Trip, stage: Stage, name: str, words: list[str], plan: list[str], **options: str
) -> None:
    """Run words of the manager as a job of the trip's engine, on one machine, to its end.

    A login node has no GPU, and a job outlives the connection. A job of this name that is completed
    may be one of an earlier trip: `plan`, the words without --confirm, says whether work is left.
    """
    for number in range(1, MOST_JOBS):
        job = name if number == 1 else f"{name}-{number}"
        try:
            chosen = (*trip.job_options(nodes="", **options), "--confirm", "--", *words)
            started = stage.run(trip.job("run", job, *chosen), env=trip.env)
            stage.run(trip.job("watch", job), env=trip.env)
        except StageFailed as failure:
            if "is completed" not in failure.text:
                raise
            started = "runs already"
        if "runs already" not in started or not _is_work_left(trip, stage, plan):
            return


def _is_work_left(trip: Trip, stage: Stage, plan: list[str]) -> bool:
    """Whether the manager on the host plans to do something."""
    answer = stage.json(trip.on_host(*plan), env=trip.host_env)
    tasks = checked_field(answer, trip.host, "stages", kind=dict)
    states = [task.get("state") for task in tasks.values() if isinstance(task, dict)]
    return "would run" in states


def evaluate(trip: Trip, stage: Stage) -> None:
    """Base and adapter side by side on the validation rows."""
    few = {"eval:data.max_samples": 64, "eval:generation.max_new_tokens": 48}
    sets = options.set_words(few if trip.rehearsal else {})
    which = ["--run", trip.result["run"]] if trip.nodes > 1 else []
    chosen = [*which, *sets, *trip.settings(True)]
    words = trip.manager("eval", "--confirm", *chosen)
    if trip.engine == "slurm":
        one = {"gpus": "1"} if trip.gpus > 1 else {}
        as_job(trip, stage, "evaluate", words, trip.manager("eval", *chosen), **one)
    answer = stage.json(trip.on_host(*words), env=trip.host_env)
    before = checked_metrics(answer.get("before"), trip.host)
    after = checked_metrics(answer.get("after"), trip.host)
    trip.result |= {"before": before, "after": after}
    stage.set_fact(f"loss {metric_text(before, 'loss')} -> {metric_text(after, 'loss')}")


def sync_down(trip: Trip, stage: Stage) -> None:
    """The run and its reports, complete or not at all."""
    stage.run([paths.ROOT / "scripts" / "sync_from_remote.sh", trip.host], env=trip.env)
    stage.set_fact(f"adapters/runs/{trip.result['run']}")


def register(trip: Trip, stage: Stage) -> None:
    """A version of the run, verified against its card and loaded on this machine."""
    run = trip.laptop / "adapters" / "runs" / trip.result["run"]
    manager = "checkpoint_manager.py"
    words = trip.local("local", manager, "register", run, "--name", trip.name, "--json")
    reference = stage.json(words, env=trip.env)["reference"]
    trip.result["adapter"] = reference
    stage.run(trip.local("local", manager, "verify", reference), env=trip.env)
    if trip.rehearsal:
        stage.run(trip.local("remote", manager, "load", reference), env=trip.env)
    stage.set_fact(f"{reference} verified" + (" and loaded here" if trip.rehearsal else ""))


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


def metric_text(metrics: dict[str, Any], name: str) -> str:
    """A metric's value with three digits, '?' where it was not measured."""
    return f"{metrics[name]['value']:.3f}" if name in metrics else "?"


def run_all(trip: Trip) -> None:
    """Run the stages that the call asks for, in order."""
    chosen = REHEARSED if trip.rehearsal else REAL if trip.confirm else PLANNED
    for name, work in chosen:
        with trip.stages.stage(name) as stage:
            work(trip, stage)
