"""A job in a cloud through SkyPilot: a task file, and the commands that launch and follow it.

SkyPilot is no dependency (its pins clash with the trainer's): where `sky` is installed and set up
the job is launched with it, else the file is written and the commands are printed. On the machine
the same supervisor runs as on every host, so budget, watchdog and commands at the end hold there;
jobs/mounted_place.py keeps the run in the bucket.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from jobs.contract import Job
from kit import console, paths, publish

MOUNT, DATA, DESCRIPTION = "/ckpt", "~/tandem-data", "~/tandem-job"
# Codes of a stop with a checkpoint (USR2, TERM): the cloud ended the machine, so another goes on.
STOPPED = [140, 143]
IDLE_MINUTES = 10  # of a machine that is left over, until it is removed
AFTER_LIMIT_SECONDS = 900  # for the last checkpoint; then the command is ended from outside, too


def resources(job: Job, settings: Any) -> dict[str, Any]:
    """What machine, at what price, and when another takes its place."""
    accelerators = settings.accelerators
    if job.gpus:
        accelerators = f"{accelerators.partition(':')[0]}:{job.gpus}"
    made: dict[str, Any] = {
        "accelerators": accelerators,
        "use_spot": settings.use_spot,
        "disk_size": settings.disk_size,
        "autostop": {"idle_minutes": IDLE_MINUTES, "down": True},
        "job_recovery": {
            "strategy": "FAILOVER",
            "max_restarts_on_errors": settings.max_restarts_on_errors,
            "recover_on_exit_codes": STOPPED,
        },
    }
    if job.rate:
        made["max_hourly_cost"] = job.rate
    return made


def setup_lines(base_model: str, repository: str) -> list[str]:
    """The set-up: the environment, and the base model, which is never synced."""
    lines = ["set -e", "./setup_remote.sh --here"]
    if repository:
        words = [".venv-remote/bin/hf", "download", repository, "--local-dir"]
        words += [f"models/{base_model}", "--exclude", "original/*", "consolidated.safetensors"]
        lines.append(f"HF_HUB_OFFLINE=0 {shlex.join(words)}")
    return lines


def run_lines(job: Job, has_bucket: bool) -> list[str]:
    """The command: the supervisor, its run kept in the bucket where there is one."""
    name = shlex.quote(job.name)
    python = ".venv-remote/bin/python scripts/jobs"
    start = f"{python}/mounted_place.py .jobs/{name} {MOUNT}" if has_bucket else (
        f"{python}/supervisor.py .jobs/{name}"
    )  # fmt: skip
    if job.cap_seconds:
        most = int(job.cap_seconds) + AFTER_LIMIT_SECONDS
        start = f"timeout --signal=TERM --kill-after=60 {most} {start}"  # macos-ok: in the cloud
    return [
        "set -e",
        f"mkdir -p data/processed .jobs/{name}",
        f"cp -R {DATA}/. data/processed/",
        f"cp {DESCRIPTION}/engine.json .jobs/{name}/engine.json",
        f"exec {start}",
    ]


def task(job: Job, settings: Any, base_model: str = "", repository: str = "") -> dict[str, Any]:
    """SkyPilot's task as a dict (its YAML schema of 0.14). settings: the `sky` section.

    base_model, repository: the model's folder below models/, and where it is downloaded from.
    """
    mounts: dict[str, Any] = {
        DATA: str(paths.folder("data_processed")),
        DESCRIPTION: str(folder(job)),
    }
    if settings.bucket:
        mounts[MOUNT] = {"source": settings.bucket, "mode": "MOUNT"}
    return {
        "name": f"tandem-{job.name}",
        "num_nodes": job.nodes,
        "workdir": str(paths.ROOT),
        "resources": resources(job, settings),
        "envs": {"HF_HUB_OFFLINE": "1"},
        "file_mounts": mounts,
        "setup": "\n".join(setup_lines(base_model, repository)),
        "run": "\n".join(run_lines(job, bool(settings.bucket))),
    }


def folder(job: Job) -> Path:
    """Where the job's description waits for its machine; it is mounted there."""
    return paths.workdir() / ".cache" / "sky" / job.name


def write(job: Job, settings: Any, base_model: str = "", repository: str = "") -> Path:
    """Publish the task file below .cache/sky/, and the job's description; the file's path."""
    import yaml

    with publish.file(folder(job) / "engine.json", "wb") as f:
        f.write(job.to_json())
    file = folder(job).with_suffix(".yaml")
    with publish.file(file) as f:
        yaml.safe_dump(task(job, settings, base_model, repository), f, sort_keys=False)
    return file


def commands(job: Job, file: Path) -> list[str]:
    """What launches, follows and ends the job."""
    name = f"tandem-{job.name}"
    return [
        f"sky jobs launch -d -y -n {name} {shlex.quote(str(file))}",
        f"sky jobs logs -n {name}",
        f"sky jobs cancel -n {name} -y",
    ]


def launch(job: Job, file: Path, confirmed: bool) -> bool:
    """Launch the task file where `sky` is installed and it was asked for; whether it was."""
    launch_command, *others = commands(job, file)
    if not confirmed or not shutil.which("sky"):
        why = "sky is not installed here; where it is" if confirmed else "nothing is started; then"
        console.note(f"{file} is written; {why}:")
        for command in (launch_command, *others):
            console.note(f"  {command}")
        return False
    env = os.environ | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    code = subprocess.call(shlex.split(launch_command), env=env, stdin=subprocess.DEVNULL)
    if code:
        raise console.Problem(
            f"sky jobs launch ended with {code}", "sky check says what is missing"
        )
    for command in others:
        console.note(f"  {command}")
    return True
