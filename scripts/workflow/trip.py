"""The two machines of a trip: where laptop and host are, and how a command runs on each."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config import options
from kit import console, lock, paths
from transfer.adapter_units import RUN_ID
from workflow.stages import StageSeries, pulse

# Options of the jobs in which a trip trains and evaluates, as scripts/jobs.py knows them.
JOB_OPTIONS = {
    "nodes": "machines (slurm)",
    "gpus": "GPUs a machine; default one",
    "partition": "Slurm's partition",
    "budget": "the most that each job may cost",
    "rate": "what an hour costs",
}
REHEARSAL = paths.ROOT / ".rehearsal"
# The miniature travels up with the synthetic data; real base models never travel.
MINIATURE = "data/synthetic/miniature"
# What a rehearsal changes in training_config.yaml; LoRA and quantisation stay as configured.
REHEARSAL_SETTINGS = {
    "model.model_name_or_path": MINIATURE,
    "model.model_revision": "null",
    "model.chat_template": "null",
    "training.max_steps": 60,
    "training.max_length": 1024,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-2,  # a model of 64 dimensions needs larger steps than one of 4096
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
    """Where a trip's two machines are, how its commands run on each, and its result so far."""

    def __init__(self, args):
        self.rehearsal, self.raw, self.confirm = args.rehearse, args.raw, args.confirm
        self.gpu, self.overrides = args.gpu, args.overrides
        self.rate = float(args.rate) if args.rate else None
        self.name = args.name or ("rehearsal" if args.rehearse else "mapper-lora")
        home = REHEARSAL if self.rehearsal else paths.ROOT / ".cache" / "trip"
        self.engine = args.engine
        self._job_options = {name: getattr(args, name) for name in JOB_OPTIONS}
        self.nodes, self.gpus = int(args.nodes or 1), int(args.gpus or 1)
        self.uses_jobs = args.engine == "slurm" or not args.rehearse
        self.stages = StageSeries(home / "log")
        self.laptop = REHEARSAL / "laptop" if self.rehearsal else paths.workdir()
        self.host = args.host or (str(REHEARSAL / "host") if self.rehearsal else "")
        self.local_folder = self.host.startswith(("/", "./", "../"))
        self.remote_dir = paths.load()["remote_dir"]
        self.home_dir = self.remote_dir  # the folder with the host's environment
        if self.rehearsal:
            self.remote_dir += "-rehearsal"
        self.env = os.environ | {"TANDEM_WORKDIR": str(self.laptop), "TANDEM_ENV": "local"}
        self.env |= {"REMOTE_DIR": self.remote_dir, "HF_HUB_OFFLINE": "1", "HOST": self.host}
        if self.rehearsal and not args.full:  # a miniature is slower with more threads
            self.env["OMP_NUM_THREADS"] = "1"
        laptop_only = ("TANDEM_WORKDIR", "TANDEM_ENV")
        self.host_env = {k: v for k, v in self.env.items() if k not in laptop_only}
        self.result: dict[str, Any] = {}

    def local(self, environment: str, script: str, *arguments: object) -> list[str]:
        """A command of the kit on this machine."""
        python = paths.ROOT / f".venv-{environment}" / "bin" / "python"
        return [str(python), str(paths.ROOT / "scripts" / script), *map(str, arguments)]

    def remote(self, script: str, *arguments: object) -> list[str]:
        """A command of the kit on the host, in its environment."""
        words = [".venv-remote/bin/python", f"scripts/{script}", *map(str, arguments)]
        return self.on_host(*words)

    def manager(self, stage: str, *arguments: object) -> list[str]:
        """One stage of the training manager, which continues where it stopped."""
        words = [".venv-remote/bin/python", "scripts/training_manager.py", "--stage", stage]
        if self.gpus > 1 and self.nodes == 1:
            words += ["--processes", str(self.gpus)]
        return [*words, "--json", *map(str, arguments)]

    def on_host(self, *words: str, job: str = "") -> list[str]:
        """Words run on the host in REMOTE_DIR; as a detached `job` where one is named."""
        detached = ["--detach", job] if job else []
        return [str(paths.ROOT / "scripts" / "host_run.sh"), self.host, *detached, "--", *words]

    def job(self, verb: str, stage: str, *words: str) -> list[str]:
        """scripts/jobs.py VERB for a stage that runs as a job."""
        name = self.job_name(stage)
        return self.local("local", "jobs.py", verb, name, "--host", self.host, *words)

    def job_options(self, **changes: str) -> list[str]:
        """The options of a stage's job that the call gave; '' in `changes` leaves one out."""
        given = {"engine": self.engine} | self._job_options | changes
        return [f"--{name}={value}" for name, value in given.items() if value]

    def job_name(self, stage: str) -> str:
        """The name of a stage's job; a rehearsal's is new."""
        return f"rehearsal-{os.getpid()}-{stage}" if self.rehearsal else stage

    def settings(self, confirmed: bool) -> list[str]:
        """The --set options of the trainer."""
        values = dict(REHEARSAL_SETTINGS) if self.rehearsal else {}
        if confirmed and self.rehearsal:
            values["safety.dry_run"] = "false"
        return options.set_words(values)

    def shown_host(self) -> str:
        """The host as messages name it."""
        return paths.show(self.host) if self.host.startswith("/") else self.host


# --- answers of the host ----------------------------------------------------------------------


def bad_answer(host: str, what: str) -> console.Problem:
    """The Problem of an answer from the host that does not have the form of ours."""
    return console.Problem(
        f"{host}: its answer {what}",
        "update the kit there (make sync-up); if that changes nothing, do not trust this host",
    )


def checked_run_id(answer: dict[str, Any], host: str) -> str:
    """The run id in a host's answer: it becomes a path here, so it has the form of a run id."""
    run = answer.get("run")
    if not isinstance(run, str) or not RUN_ID.fullmatch(run):
        raise bad_answer(host, f"names the run {str(run)[:60]!r}, which is not a run id")
    return run


def checked_metrics(metrics: Any, host: str) -> dict[str, dict[str, float]]:
    """Metrics in a host's answer: {name: {"value": a finite number}}; {} for none."""
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise bad_answer(host, "holds metrics that are not a table")
    for name, metric in metrics.items():
        value = metric.get("value") if isinstance(metric, dict) else None
        if type(value) not in (int, float) or not math.isfinite(value):
            raise bad_answer(host, f"gives no number for the metric {str(name)[:40]!r}")
    return metrics


def checked_field(answer: Any, host: str, *keys: str, kind: type | tuple[type, ...]) -> Any:
    """answer[key][key]..., which must be of `kind`."""
    value = answer
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise bad_answer(host, f"has no {'.'.join(keys)} of the expected type")
    return value


# --- before and around a trip -----------------------------------------------------------------


def refuse_early(args) -> None:
    """Raise what is wrong with the call, or with the host, before any work."""
    if args.host is None and not args.rehearse:
        args.host = paths.load()["host"]
    for is_wrong, text, remedy in _mistakes(args):
        if is_wrong:
            raise console.Misuse(text, remedy)
    if args.host:
        _probe(args.host)


def _mistakes(args) -> list[tuple[bool, str, str]]:
    """(whether it was made, what is wrong, the remedy) of each mistake in a call."""
    only_full = args.gpu or args.overrides
    return [
        (bool(args.raw and not Path(args.raw).exists()),
         f"RAW={args.raw}: no such file or folder", "give a path that exists"),
        (args.full and not args.rehearse,
         "--full is a rehearsal", "add --rehearse (make rehearse FULL=1)"),
        (bool(only_full and not args.full),
         "--gpu and --set belong to --full", "add --full, or FULL=1"),
        *_wrong_job_options(args),
        (not args.host and not args.rehearse,
         "no host was named", "HOST=gpu1, HOST=./folder, or host in configs/paths_config.json"),
        (args.engine not in ("", "folder", "ssh", "slurm"),
         f"ENGINE={args.engine}: the trip knows slurm, ssh and folder",
         "make job-run ENGINE=sky trains in a cloud"),
    ]  # fmt: skip


def _probe(host: str) -> None:
    """The Problem that host_probe.sh finds, with its exit code."""
    command = [str(paths.ROOT / "scripts" / "host_probe.sh"), host]
    with pulse("host"):
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
    if done.returncode:
        last = console.last_line(done.stderr, "host_probe.sh: it failed")
        cause = last.partition(": ")[2] or last
        code = done.returncode if done.returncode in (1, 2, 130, 143) else 1
        raise console.Problem(cause, code=code)


def _wrong_job_options(args) -> Iterator[tuple[bool, str, str]]:
    """The same for numbers that are none, and for machines that only Slurm gives."""
    for name, what in (("rate", "price of an hour"), ("budget", "amount of money")):
        text, word = getattr(args, name), name.upper()
        yield (bool(text) and not _is_amount(text),
               f"{word}={text} is no {what}", f"give a number: {word}=1.90")  # fmt: skip
    for name in ("nodes", "gpus"):
        text, word = getattr(args, name), name.upper()
        yield (bool(text) and not re.fullmatch(r"[1-9]\d{0,3}", text),
               f"{word}={text} is no count", f"give {word}=2")  # fmt: skip
    yield (args.nodes not in ("", "1") and args.engine != "slurm",
           f"NODES={args.nodes} needs ENGINE=slurm",
           'make job-run HOSTS="gpu1 gpu2" trains on hosts of your own')  # fmt: skip


def _is_amount(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


@contextlib.contextmanager
def only_rehearsal(folder: Path):
    """One rehearsal of a checkout at a time; starts from nothing."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        if not lock.try_lock(file.fileno(), paths.show(folder)):
            raise console.Problem("another rehearsal is running here", "wait until it ends")
        for name in ("laptop", "host", "log"):
            shutil.rmtree(folder / name, ignore_errors=True)
        yield
