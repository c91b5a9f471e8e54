"""A job in a cloud through SkyPilot: a task file, and the commands that launch and follow it.

SkyPilot is no dependency (its pins clash with the trainer's): where `sky` is installed and set up
the job is launched with it, else the file is written and the commands are printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from jobs.contract import Job
from kit import console, paths, publish

EXIT_STATES = {100: "failed", 101: "not finished", 102: "not found", 103: "cancelled"}


def task(job: Job, settings: Any) -> dict[str, Any]:
    """SkyPilot's task as a dict (its YAML schema of 0.14). settings: the `sky` section."""
    resources: dict[str, Any] = {
        "accelerators": settings.accelerators,
        "use_spot": settings.use_spot,
        "disk_size": settings.disk_size,
        "job_recovery": {
            "strategy": "FAILOVER",
            "max_restarts_on_errors": settings.max_restarts_on_errors,
            "recover_on_exit_codes": [140, 143],
        },
    }
    if job.rate:
        resources["max_hourly_cost"] = job.rate
    words = [word for word in job.words if word != ".venv-remote/bin/python"]
    run = [
        "set -e",
        'if [ -d /ckpt ]; then mkdir -p "/ckpt/$RUN" adapters && '
        "rm -rf adapters/runs && mkdir -p adapters && ln -sfn /ckpt adapters/runs; fi",
        'begun=--run-id; [ ! -e "adapters/runs/$RUN/status.json" ] || begun=--resume',
        f'.venv-remote/bin/python {" ".join(words)} "$begun" "$RUN"',
    ]
    if job.cap_seconds:
        run[-1] = (
            f"timeout --signal=TERM {int(job.cap_seconds)} {run[-1]}"  # macos-ok: in the cloud
        )
    made: dict[str, Any] = {
        "name": f"tandem-{job.name}",
        "num_nodes": job.nodes,
        "workdir": str(paths.ROOT),
        "resources": resources,
        "envs": {"RUN": job.run_id, "HF_HUB_OFFLINE": "1"},
        "setup": "./setup_remote.sh --here",
        "run": "\n".join(run),
    }
    if settings.bucket:
        made["file_mounts"] = {"/ckpt": {"source": settings.bucket, "mode": "MOUNT"}}
    return made


def write(job: Job, settings: Any) -> Path:
    """Publish the task file below .cache/sky/; its path."""
    import yaml

    file = paths.workdir() / ".cache" / "sky" / f"{job.name}.yaml"
    with publish.file(file) as f:
        yaml.safe_dump(task(job, settings), f, sort_keys=False)
    return file


def commands(job: Job, file: Path) -> list[str]:
    """What launches, follows and ends the job."""
    name = f"tandem-{job.name}"
    return [
        f"sky jobs launch -d -y -n {name} {file}",
        f"sky jobs logs -n {name}",
        f"sky jobs cancel -n {name} -y",
    ]


def launch(job: Job, settings: Any) -> bool:
    """Write the file and launch it where `sky` is installed; whether it was launched."""
    file = write(job, settings)
    launch_command, *others = commands(job, file)
    if not shutil.which("sky"):
        console.note(f"{file} is written; sky is not installed here. Where it is, run:")
        for command in (launch_command, *others):
            console.note(f"  {command}")
        return False
    env = os.environ | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    code = subprocess.call(launch_command.split(), env=env, stdin=subprocess.DEVNULL)
    if code:
        raise console.Problem(
            f"sky jobs launch ended with {code}", "sky check says what is missing"
        )
    for command in others:
        console.note(f"  {command}")
    return True
