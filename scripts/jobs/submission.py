"""Makes the Job of a call: its engine, its run, its limits; submits it once, or lets it go on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from config import options
from jobs import budget, contract, engines, files
from jobs.contract import Job
from jobs.detached import no_kit
from kit import clock, console, paths, publish
from transfer.host import Host, ScriptFailed, quote

PLAN = """
CDPATH= cd {root} 2>/dev/null || exit 97
[ -x {python} ] || exit 95
{{ {command}; }} </dev/null 2>&1 || exit 0
"""
TRAINER = (".venv-remote/bin/python", "scripts/lora_trainer.py")


@dataclasses.dataclass(frozen=True)
class JobRequest:
    """The options of the call; 0 and '' mean: not given."""

    name: str
    engine: str = ""
    words: tuple[str, ...] = ()  # a command of the user's; () for the trainer
    config: str = ""
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    gpus: int = 0
    budget: float = 0.0
    rate: float = 0.0
    partition: str = ""
    time_limit: float = 0.0  # hours
    several: bool = False  # on `nodes` hosts of one's own


def natural_engine(host: Host) -> str:
    """The engine of a host without a scheduler, by the kind of HOST."""
    return "folder" if host.is_folder else "ssh"


def choose_engine(request: JobRequest, host: Host, section: Any) -> str:
    """The engine: as given, else as configs/jobs.yaml says, else by the kind of HOST."""
    named = request.engine or (section.engine if section else None)
    natural = natural_engine(host)
    if named in ("folder", "ssh") and named != natural:
        what = "a folder" if host.is_folder else "an ssh name"
        raise console.Misuse(f"ENGINE={named}, and HOST {host.name} is {what}", f"ENGINE={natural}")
    if named and named not in contract.ENGINES:
        raise console.Misuse(f"ENGINE={named} is none", f"one of {', '.join(contract.ENGINES)}")
    return named or natural


def make(request: JobRequest, host: Host, settings: Any) -> Job:
    """The Job for a request on a host. settings: the JobsConfig."""
    contract.check_name(request.name)
    section = settings.hosts.get(host.name)
    engine = choose_engine(request, host, section)
    amount = request.budget or settings.budget.amount or 0.0
    rate, cap = limits(request, amount, section, settings)
    extra = list(section.extra if section else [])
    partition = request.partition or (section.partition if section else None)
    if partition:
        extra.insert(0, f"--partition={partition}")
    if request.nodes > 1 and engine != "slurm" and not request.several:
        raise console.Misuse(
            f"NODES={request.nodes} needs ENGINE=slurm", 'HOSTS="gpu1 gpu2" takes hosts of your own'
        )
    manifest = paths.folder("data_processed") / "manifest.json"
    return Job(
        name=request.name,
        engine=engine,
        words=request.words or trainer_words(request),
        run_id="" if request.words else new_run_id(request.name),
        nodes=request.nodes,
        gpus=request.gpus,
        cap_seconds=cap,
        rate=rate,
        budget=amount,
        max_restarts=settings.watchdog.max_restarts,
        hung_factor=settings.watchdog.hung_factor,
        hung_seconds=settings.watchdog.hung_seconds,
        notify=os.environ.get("NOTIFY_CMD") or settings.at_end.notify or "",
        stop_command=os.environ.get("STOP_CMD") or settings.at_end.stop or "",
        grace_seconds=settings.at_end.grace_seconds,
        submitted=time.time(),
        manifest_sha256=publish.sha256(manifest) if manifest.is_file() else "",
        extra=tuple(extra),
    )


def limits(request: JobRequest, amount: float, section: Any, settings: Any) -> tuple[float, float]:
    """(money an hour, seconds that a job may run; 0 for no limit) on a host with its section."""
    rate = request.rate or (section.rate if section and section.rate else 0.0)
    cap = 0.0
    if amount:
        storage = section.storage_rate if section else 0.0
        cap = budget.cap_seconds(amount, rate, storage, settings.budget.save_seconds)
    if request.time_limit:
        cap = min(cap or float("inf"), budget.time_seconds(request.time_limit))
    return rate, cap


def with_limits(job: Job, request: JobRequest, host: Host, settings: Any) -> Job:
    """A job that goes on, with the budget, rate or time that the call gives anew."""
    if not (request.budget or request.rate or request.time_limit):
        return job
    amount = request.budget or (0.0 if request.time_limit else job.budget)
    request = dataclasses.replace(request, rate=request.rate or job.rate)
    rate, cap = limits(request, amount, settings.hosts.get(host.name), settings)
    return dataclasses.replace(job, rate=rate, budget=amount, cap_seconds=cap)


def new_run_id(name: str) -> str:
    """The id of the run, fixed now: the job's name and the moment, so that it sorts by time."""
    return f"{clock.name_stamp()}-{name}"


def trainer_words(request: JobRequest) -> tuple[str, ...]:
    """The trainer's command, without its run id."""
    words = [*TRAINER, "--confirm-run"]
    words += ["--config", request.config] if request.config else []
    words += options.set_words(request.overrides)
    if request.nodes == 1 and request.gpus != 1:
        words += ["--gpus", str(request.gpus) if request.gpus else "auto"]
    return tuple(words)


def same_run(job: Job, file: Path) -> Job:
    """The job with the run of an earlier submission that `file` describes: twice is one run."""
    if not job.run_id or not file.is_file():
        return job
    old = contract.parse(file.read_text(encoding="utf-8"), paths.show(file))
    console.note(f"{job.name} goes on with its run {old.run_id}; another NAME begins a new one")
    return dataclasses.replace(job, run_id=old.run_id)


def _settings(request: JobRequest) -> Any:
    """The trainer's configuration with the request's overrides."""
    from config import loader

    config = request.config or "training_config.yaml"
    return loader.load(config, request.overrides, kind="training_config")


def base_model(request: JobRequest) -> tuple[str, str]:
    """(the base model's folder below models/, the repository that it comes from; '' for none)."""
    from base_model import locate

    known = locate.known()
    key = locate.key_of(_settings(request).model.model_name_or_path, known)
    return (key, known[key]["repo"]) if key else ("", "")


def refuse_dry_run(request: JobRequest) -> None:
    """Misuse where the configuration says that the trainer only plans."""
    if _settings(request).safety.dry_run:
        raise console.Misuse(
            "the config says dry_run: true, so the job would only plan",
            "set safety.dry_run: false (--set safety.dry_run=false)",
        )


def submit(host: Host, job: Job) -> tuple[Job, str]:
    """Submit the job; (the job that now runs, what was done: started, runs, goes on).

    A job of that name that runs or waits is left alone; one that ended without finishing its run
    goes on with it; one that finished is a Problem.
    """
    with files.submitting(host, job.name):
        return _submit_alone(host, job)


def _submit_alone(host: Host, job: Job) -> tuple[Job, str]:
    before = existing(host, job.name)
    if before is not None:
        old, folder = before
        state = engines.engine_of(old.engine).state(host, old)
        if not state.over:
            return old, "runs"
        if folder.completed:
            raise console.Problem(
                f"the job {job.name} on {host.name} is completed"
                + (f" (run {old.run_id})" if old.run_id else ""),
                "give another NAME for a new run; make sync-down fetches this one",
            )
        budget.refuse_used_up(job, contract.seconds(folder.lives))
        if old.run_id:
            job = dataclasses.replace(job, run_id=old.run_id)
    engines.engine_of(job.engine).submit(host, job)
    return job, "goes on" if before and before[1].begun else "started"


def existing(host: Host, name: str) -> tuple[Job, files.JobFolder] | None:
    """The job of that name on the host, None where there is none. Misuse for what is no name.

    A command of host_run.sh --detach has its folder there, too: Problem while it runs.
    """
    contract.check_name(name)
    try:
        folder = files.read_folder(host, name)
    except console.Misuse:
        return None
    if folder.plain and folder.alive:
        raise console.Problem(
            f"{name} runs on {host.name} as a command of host_run.sh --detach",
            f"scripts/host_watch.sh {host.name} {name} follows it; or give another NAME",
        )
    if folder.plain:
        return None
    return _described(host, name, folder), folder


def _described(host: Host, name: str, folder: files.JobFolder) -> Job:
    """The Job in a folder there; Problem where it is another's, or a cloud's."""
    where = f"{host.place}/.jobs/{name}/engine.json"
    job = contract.parse(folder.engine_json, where)
    if job.name != name:
        raise console.Problem(
            f"{where}: damaged (its name is {job.name})", "submit the job again under another NAME"
        )
    if job.engine == "sky":
        raise console.Problem(
            f"{name} is a job in a cloud, which SkyPilot knows", f"sky jobs logs -n tandem-{name}"
        )
    return job


def required(host: Host, name: str) -> tuple[Job, files.JobFolder]:
    """The job of that name; Misuse where there is none."""
    folder = files.read_folder(host, name)
    if folder.plain:
        raise console.Misuse(
            f"{name} on {host.name} is no job but a command of host_run.sh --detach",
            f"scripts/host_watch.sh {host.name} {name} follows it",
        )
    return _described(host, name, folder), folder


def plan_seconds(host: Host, job: Job) -> float | None:
    """What the trainer's own plan on the host estimates, None where it says nothing.

    Problem where there is no kit or no training environment. A plan that failed is warned about.
    """
    words = [word for word in job.words if word not in ("--confirm-run", "--gpus", "auto")]
    command = " ".join(map(quote, [*words, "--json"]))
    try:
        output = host.run(
            PLAN.format(root=quote(host.root), python=quote(words[0]), command=command),
            repeatable=True,
        )
    except ScriptFailed as failed:
        if failed.exit_code == 97:
            raise no_kit(host) from None
        if failed.exit_code == 95:
            raise console.Problem(
                f"{host.name} has no training environment", f"make setup-remote HOST={host.name}"
            ) from None
        raise
    text = output.decode("utf-8", "replace")
    if not any(line.startswith("{") for line in text.splitlines()):
        cause = console.printable(console.last_line(text, "it printed nothing"))
        console.warn(f"{host.name}: the trainer's plan failed there: {cause}")
    return parse_seconds(text)


def parse_seconds(text: str) -> float | None:
    """Seconds of the run in the trainer's --json plan; None where its card is not known there."""
    lines = [line for line in text.splitlines() if line[:1] == "{"]
    try:
        estimate = json.loads(lines[-1])["plan"]["estimate"]
        times = [float(value) for value in estimate["time"].values()]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    known = times and not estimate.get("assumed_cards") and all(map(math.isfinite, times))
    return max(times) if known else None
