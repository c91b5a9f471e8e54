"""A job as a process of its own, in a folder here or on an ssh host: tmux, else nohup."""

from __future__ import annotations

from jobs import detached, several
from jobs.contract import Job
from jobs.engines import ENDED, GONE, RUNNING, JobState
from jobs.files import put, read_folder, take_back
from transfer.host import Host, ScriptFailed, quote

SUPERVISOR = (".venv-remote/bin/python", "scripts/jobs/supervisor.py")


def submit(host: Host, job: Job) -> str:
    """Start the job so that it outlives the connection; returns how: tmux or nohup."""
    files = {"engine.json": job.to_json()}
    if job.nodes > 1:
        files["launch.sh"] = several.launch_script(job).encode()
    put(host, job, files)
    try:
        return detached.start(host, job.name, [*SUPERVISOR, f".jobs/{job.name}"], keep_log=True)
    except ScriptFailed as failed:
        if failed.exit_code == 1:  # before anything was started
            take_back(host, job.name)
        raise


def state(host: Host, job: Job) -> JobState:
    """The exit file is the truth; without one, whether run.sh still runs.

    A trainer that outlived its supervisor may have completed the run of a life that was killed.
    """
    facts = read_folder(host, job.name)
    if facts.exit_code is None and facts.alive:
        return JobState(RUNNING)
    if facts.completed:
        return JobState(ENDED, 0)
    if facts.exit_code is not None:
        return JobState(ENDED, facts.exit_code)
    return JobState(GONE, why="its process is gone and left no exit code: a reboot, or killed")


def cancel(host: Host, job: Job, now: bool) -> None:
    """Ask for a checkpoint and the end; `now`: end the process and all below it."""
    word = 9 if now else 15
    host.run(f"CDPATH= cd {quote(host.root)}/.jobs/{job.name} || exit 97\necho {word} >stop")
