"""A job under Slurm. HOST is the login node, an ssh name; compute nodes see the same folder."""

from __future__ import annotations

import re
import signal

from jobs.contract import Job
from jobs.engines import ENDED, GONE, QUEUED, RUNNING, JobState
from jobs.engines.slurm_scripts import (
    CANCEL,
    LOOK,
    NEVER,
    SUBMIT,
    batch_script,
    launch_script,
)
from jobs.files import put, read_folder, take_back
from kit import console
from transfer.host import Host, ScriptFailed, quote

ALIVE = {"PENDING": QUEUED, "REQUEUED": QUEUED, "REQUEUE_HOLD": QUEUED, "CONFIGURING": QUEUED,
         "RUNNING": RUNNING, "COMPLETING": RUNNING, "SUSPENDED": RUNNING, "SIGNALING": RUNNING,
         "STAGE_OUT": RUNNING, "STOPPED": RUNNING, "RESIZING": RUNNING}  # fmt: skip


def check_extra(options: tuple[str, ...]) -> None:
    """Misuse for a site line that is no single option: it stands in a script."""
    for option in options:
        if not re.fullmatch(
            r"--?[A-Za-z][A-Za-z0-9-]*([= ][A-Za-z0-9_.,:@/+=\[\]()*&|-]+)?", option
        ):
            raise console.Misuse(
                f"the option {option!r} for sbatch cannot be passed on",
                "one option each, such as --account=x; set hosts.NAME.extra in configs/jobs.yaml",
            )


def submit(host: Host, job: Job) -> str:
    """Hand the job to sbatch once: a job of this name that is queued or runs is kept."""
    check_extra(job.extra)
    files = {"engine.json": job.to_json(), "batch.sh": batch_script(job).encode()}
    if job.nodes > 1:
        files["launch.sh"] = launch_script(job).encode()
    put(host, job, files)
    try:
        output = host.run(
            SUBMIT.format(root=quote(host.root), name=job.name, never="|".join(NEVER))
        )
    except ScriptFailed as failed:
        problem = _not_submitted(host, failed)
        if isinstance(problem, console.Misuse):  # after any other Slurm may have the job
            take_back(host, job.name)
        raise problem from None
    facts = dict(line.partition(" ")[::2] for line in output.decode().splitlines())
    return parse_id(facts.get("id", ""))


def _not_submitted(host: Host, failed: ScriptFailed) -> console.Problem:
    """What the failure of a submission means: Misuse where Slurm has no job for certain."""
    unconfigured = "configuration source" in failed.complaint
    if failed.exit_code == 95 or unconfigured:
        what = "sbatch has no configuration there" if unconfigured else "no sbatch there"
        return console.Misuse(
            f"{host.name}: {what}, so it is no login node of a Slurm cluster",
            "name the login node as HOST, or leave out ENGINE=slurm",
        )
    return refusal(host.name, failed.complaint) if failed.exit_code == 94 else failed


def refusal(host: str, text: str) -> console.Problem:
    """The Problem of what sbatch wrote: Misuse unless Slurm itself could not answer."""
    cause = text.rpartition("sbatch: error: ")[2].strip() or text
    cause = cause.removeprefix("Batch job submission failed: ")
    if re.search(r"contact|timed out|connect|temporarily|protocol|credential", cause, re.I):
        return console.Problem(
            f"{host}: Slurm does not answer ({cause})", "the same command again in some minutes"
        )
    return console.Misuse(
        f"{host}: Slurm refused the job ({cause})",
        "correct PARTITION, the time limit, GPUS, NODES or the site's options (hosts in "
        "configs/jobs.yaml); sinfo there shows what there is",
    )


def parse_id(text: str) -> str:
    """The number in sbatch --parsable's `ID` or `ID;CLUSTER`; '' for anything else."""
    match = re.match(r"(\d{1,12})(;|$)", text.strip())
    return match[1] if match else ""


def parse_state(squeue: str, sacct: str) -> JobState:
    """The state in the words of squeue (%T %r), else of sacct (State|ExitCode)."""
    word, _, reason = squeue.strip().partition(" ")
    word = word.split("+")[0].upper()
    if word in ALIVE:
        waits = ALIVE[word] == QUEUED and reason not in ("", "None")
        return JobState(ALIVE[word], why=f"{word}: {reason}" if waits else word)
    if word:
        return JobState(
            ENDED if word == "COMPLETED" else GONE, 0 if word == "COMPLETED" else None, word
        )
    state, _, code = sacct.strip().partition("|")
    state = state.split(" ")[0].rstrip("+").upper()  # CANCELLED by 1000
    if not state:
        return JobState(GONE, why="Slurm knows it no more")
    if state in ALIVE:
        return JobState(ALIVE[state], why=state)
    number = code.partition(":")[0]
    ended = state in ("COMPLETED", "FAILED") and number.isdigit()
    return JobState(ENDED, int(number), state) if ended else JobState(GONE, why=state)


def state(host: Host, job: Job) -> JobState:
    """The exit file is the truth, else the scheduler's word; gone only at a second look."""
    folder = read_folder(host, job.name)
    ended = JobState(ENDED, folder.exit_code)
    if folder.exit_code not in (None, 128 + signal.SIGTERM, 128 + signal.SIGUSR2):
        return ended
    number = parse_id(folder.id)
    if not number:
        return JobState(GONE, why="it was never submitted")
    asked = _ask(host, number)
    if not asked.over or folder.exit_code is None and asked.kind == ENDED:
        return asked
    if folder.exit_code is None:  # it may have been written since
        folder, asked = read_folder(host, job.name), _ask(host, number)
        return JobState(ENDED, folder.exit_code) if folder.exit_code is not None else asked
    return ended  # stopped by a signal, and not queued again


def _ask(host: Host, number: str) -> JobState:
    """The scheduler's own word. Problem where it does not answer."""
    try:
        output = host.run(LOOK.format(root=quote(host.root), id=number), repeatable=True)
    except ScriptFailed as failed:
        if failed.exit_code == 94:
            raise refusal(host.name, failed.complaint) from None
        raise
    facts = dict(line.partition(" ")[::2] for line in output.decode().splitlines())
    return parse_state(facts.get("squeue", ""), facts.get("sacct", ""))


def cancel(host: Host, job: Job, now: bool) -> None:
    """Stop with a checkpoint; `now`, or while it still waits: take it out of the queue."""
    number = parse_id(read_folder(host, job.name).id)
    if not number:
        return
    place = {"root": quote(host.root), "name": job.name, "id": number}
    host.run(CANCEL.format(word=9 if now else 15, **place))
    if now:
        host.run(f"scancel {number}")
