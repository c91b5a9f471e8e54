"""A job under Slurm. HOST is the login node, an ssh name; compute nodes see the same folder."""

from __future__ import annotations

import re
import signal

from jobs.contract import Job
from jobs.engines import ENDED, GONE, QUEUED, RUNNING, JobState
from jobs.engines.shell import SUPERVISOR
from jobs.files import put, read_folder
from kit import console
from transfer.host import Host, quote

WARNING_SECONDS = 300  # Slurm may deliver the signal up to 60 s early
ALIVE = {"PENDING": QUEUED, "REQUEUED": QUEUED, "REQUEUE_HOLD": QUEUED, "CONFIGURING": QUEUED,
         "RUNNING": RUNNING, "COMPLETING": RUNNING, "SUSPENDED": RUNNING, "SIGNALING": RUNNING,
         "STAGE_OUT": RUNNING, "STOPPED": RUNNING, "RESIZING": RUNNING}  # fmt: skip

# The batch script. B: reaches this shell alone, so it passes the signal on.
BATCH = """#!/bin/bash
#SBATCH --job-name=tandem-{name}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=.jobs/{name}/log.txt
#SBATCH --signal=B:USR2@{warning}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{more}
job=.jobs/{name}
rm -f "$job/exit" "$job/stop" # of an earlier life: Slurm began this one
export TANDEM_REQUEUE=
if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] && command -v scontrol >/dev/null; then
  TANDEM_REQUEUE=1
fi
{supervisor} "$job" &
pid=$!
trap 'kill -USR2 "$pid" 2>/dev/null' USR2
trap 'kill -TERM "$pid" 2>/dev/null' TERM INT
while :; do
  wait "$pid"
  code=$?
  kill -0 "$pid" 2>/dev/null || break
done
wait "$pid" 2>/dev/null || true
if [ -n "$TANDEM_REQUEUE" ] && [ ! -e "$job/exit" ] && [ "$code" -eq 140 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
[ -e "$job/exit" ] || {{ echo "$code" >"$job/exit.part" && mv "$job/exit.part" "$job/exit"; }}
exit "$code"
"""
# The command on several nodes: one torchrun a node, which meet at the first.
LAUNCH = """first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
exec srun --kill-on-bad-exit=1 .venv-remote/bin/torchrun --nnodes "$SLURM_NNODES" \\
  --nproc-per-node {processes} --rdzv-backend c10d --rdzv-endpoint "$first:$port" \\
  --rdzv-id "$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}" "$@"
"""
SUBMIT = """
CDPATH= cd {root} || exit 97
command -v sbatch >/dev/null 2>&1 || exit 95
there=$(squeue -h --me -n tandem-{name} -o %i 2>/dev/null | head -n 1)
if [ -n "$there" ]; then echo "id $there"; echo "again yes"; exit 0; fi
for name in $(env | sed -n 's/^\\(SBATCH_[A-Z_]*\\|SLURM_[A-Z_]*\\)=.*/\\1/p'); do
  [ "$name" = SLURM_CONF ] || unset "$name"
done
id=$(sbatch --parsable .jobs/{name}/batch.sh) || exit 94
echo "$id" >.jobs/{name}/job.id
echo "id $id"
"""
LOOK = """
CDPATH= cd {root} || exit 97
echo "squeue $(squeue -h -j {id} -o %T 2>/dev/null | head -n 1)"
echo "sacct $(sacct -nPX -j {id} -o State,ExitCode 2>/dev/null | head -n 1)"
"""


def hours(seconds: float) -> str:
    """3700 -> '1:01:40', as sbatch reads --time."""
    whole = max(60, int(seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def warning_seconds(job: Job) -> int:
    """How long before its end a job is told: enough to save, and never most of a short job."""
    return (
        min(WARNING_SECONDS, max(30, int(job.cap_seconds) // 4))
        if job.cap_seconds
        else WARNING_SECONDS
    )


def batch_script(job: Job) -> str:
    """The script that sbatch gets. Site lines (`extra`) come last, so that they hold."""
    more = []
    if job.cap_seconds:
        more.append(f"#SBATCH --time={hours(job.cap_seconds)}")
    if job.gpus:
        more.append(f"#SBATCH --gpus-per-node={job.gpus}")
    more += [f"#SBATCH {option}" for option in job.extra]
    return BATCH.format(
        name=job.name, warning=warning_seconds(job), nodes=job.nodes, more="\n".join(more),
        restarts=job.max_restarts, supervisor=" ".join(SUPERVISOR),
    )  # fmt: skip


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
        files["launch.sh"] = LAUNCH.format(processes=job.gpus or 1).encode()
    put(host, job, files)
    try:
        output = host.run(SUBMIT.format(root=quote(host.root), name=job.name))
    except console.Problem as problem:
        if getattr(problem, "exit_code", None) == 95:
            raise console.Misuse(
                f"{host.name}: no sbatch there, so it is no login node of a Slurm cluster",
                "name the login node as HOST, or leave out ENGINE=slurm",
            ) from None
        if getattr(problem, "exit_code", None) == 94:
            raise console.Problem(
                f"{host.name}: Slurm refused the job ({refusal(problem.text)})",
                "correct partition, GPUS, NODES or the site's options (hosts in configs/jobs.yaml)",
            ) from None
        raise
    facts = dict(line.partition(" ")[::2] for line in output.decode().splitlines())
    return parse_id(facts.get("id", ""))


def refusal(text: str) -> str:
    """What sbatch said, without its own name."""
    return text.rpartition("sbatch: error: ")[2].partition(" (exit")[0].strip() or text


def parse_id(text: str) -> str:
    """The number in sbatch --parsable's `ID` or `ID;CLUSTER`; '' for anything else."""
    match = re.match(r"(\d{1,12})(;|$)", text.strip())
    return match[1] if match else ""


def parse_state(squeue: str, sacct: str) -> JobState:
    """The state in the words of squeue (%T), else of sacct (State|ExitCode); '' for no answer."""
    word = squeue.strip().split("+")[0].upper()
    if word in ALIVE:
        return JobState(ALIVE[word], why=word)
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
    """The exit file is the truth; without one the scheduler is asked."""
    folder = read_folder(host, job.name)
    ended = JobState(ENDED, folder.exit_code)
    if folder.exit_code not in (None, 128 + signal.SIGTERM, 128 + signal.SIGUSR2):
        return ended
    number = parse_id(folder.id)
    if not number:
        return JobState(GONE, why="it was never submitted")
    output = host.run(LOOK.format(root=quote(host.root), id=number), repeatable=True)
    facts = dict(line.partition(" ")[::2] for line in output.decode().splitlines())
    reported = parse_state(facts.get("squeue", ""), facts.get("sacct", ""))
    # stopped by a signal: Slurm may have queued it again
    return ended if folder.exit_code is not None and reported.over else reported


def cancel(host: Host, job: Job, now: bool) -> None:
    """Stop with a checkpoint; `now`, or while it still waits: take it out of the queue."""
    number = parse_id(read_folder(host, job.name).id)
    if not number:
        return
    root = f"CDPATH= cd {quote(host.root)} || exit 97\n: >.jobs/{job.name}/stop\n"
    waiting = f"case $(squeue -h -j {number} -o %T) in (PENDING|REQUEUED) scancel {number};; esac\n"
    host.run(root + (f"scancel {number}\n" if now else waiting))
