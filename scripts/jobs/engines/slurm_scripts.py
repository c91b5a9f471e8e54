"""What runs on a Slurm cluster: the batch script, the launch on several nodes, submit and look."""

from __future__ import annotations

import re

from jobs.contract import Job
from jobs.engines.shell import SUPERVISOR
from jobs.several import PASS_ON_AND_WAIT

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
{wait}
wait "$pid" 2>/dev/null || true
if [ -n "$TANDEM_REQUEUE" ] && [ ! -e "$job/exit" ] && [ "$code" -eq 140 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
[ -e "$job/exit" ] || {{ echo "$code" >"$job/exit.part" && mv "$job/exit.part" "$job/exit"; }}
exit "$code"
"""
# The command on several nodes: one torchrun a node, which meet at the first. torchrun makes every
# exit code a 1, so the first process notes its own in `notes`. Without scontrol on the compute
# nodes the first node is the one on which the batch script runs.
LAUNCH = """job=.jobs/{name}
address() {{
  found=$(scontrol show node "$1" 2>/dev/null | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
  echo "${{found:-$1}}"
}}
if [ "${{TANDEM_RANKS-}}" != here ]; then
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>/dev/null | head -n 1)
  export TANDEM_RANKS=here TANDEM_FIRST="$(address "${{first:-$SLURMD_NODENAME}}")"
  rm -rf "$job/notes" && mkdir -p "$job/notes"
  srun --kill-on-bad-exit=1 sh "$job/launch.sh" "$@" &
  pid=$!
  {wait}
  noted=$(sed -n 's/.*"code": \\([0-9]*\\).*/\\1/p' "$job/notes/0" 2>/dev/null)
  exit "${{noted:-$code}}"
fi
exec .venv-remote/bin/python -m torch.distributed.run --nnodes "$SLURM_NNODES" \\
  --nproc-per-node {processes} --rdzv-backend c10d \\
  --rdzv-endpoint "$TANDEM_FIRST:$((20000 + SLURM_JOB_ID % 20000))" \\
  --rdzv-id "$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}" \\
  --rdzv-conf "is_host=$((${{SLURM_NODEID:-0}} == 0))" \\
  --local-addr "$(address "$SLURMD_NODENAME")" "$@"
"""
# One job of this name and this folder at a time. A reason that no waiting ends is a refusal.
SUBMIT = """
CDPATH= cd {root} || exit 97
command -v sbatch >/dev/null 2>&1 || exit 95
here=$(pwd -P)
queued() {{
  squeue -h --me -n tandem-{name} -o '%i %Z' 2>/dev/null |
    while read -r id place; do [ "$place" != "$here" ] || echo "$id"; done | head -n 1
}}
id=$(queued)
if [ -z "$id" ]; then
  for name in $(env | sed -n 's/^\\(SBATCH_[A-Z_]*\\|SLURM_[A-Z_]*\\)=.*/\\1/p'); do
    [ "$name" = SLURM_CONF ] || unset "$name"
  done
  # one that failed may have submitted the job all the same
  cd "$here" && id=$(sbatch --parsable .jobs/{name}/batch.sh) || id=$(queued)
  [ -n "$id" ] || exit 94
fi
echo "$id" >.jobs/{name}/job.id
for try in 1 2 3; do
  word=$(squeue -h -j "${{id%%;*}}" -o '%T %r' 2>/dev/null | head -n 1)
  [ "$word" = 'PENDING None' ] || break
  sleep 1
done
case ${{word#* }} in
  ({never}) scancel "${{id%%;*}}"; echo "sbatch: error: ${{word#* }}" >&2; exit 94 ;;
esac
echo "id $id"
"""
NEVER = (
    "PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints",
    "AccountNotAllowed", "InvalidAccount", "InvalidQOS", "QOSNotAllowed", "AssocMaxWall*",
    "QOSMaxWall*",
)  # fmt: skip
LOOK = """
CDPATH= cd {root} || exit 97
word=$(squeue -h -j {id} -o '%T %r' 2>&1 | head -n 1)
case $word in
  (*'nvalid job id'*) word='' ;;
  (*error:*) echo "sbatch: error: ${{word##*error: }}" >&2; exit 94 ;;
esac
echo "squeue $word"
echo "sacct $(sacct -nPX -j {id} -o State,ExitCode 2>/dev/null | head -n 1)"
"""
# Out of the queue it has ended, with the code of a stop; while it runs, the file `stop` asks it.
CANCEL = """
CDPATH= cd {root}/.jobs/{name} || exit 97
echo {word} >stop
case $(squeue -h -j {id} -o %T 2>/dev/null) in
  (PENDING|REQUEUED|REQUEUE_HOLD|CONFIGURING)
    scancel {id} && echo 143 >exit.part && mv exit.part exit ;;
esac
"""


def hours(seconds: float) -> str:
    """3700 -> '1:01:40', as sbatch reads --time."""
    whole = max(60, int(seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


TIME_OPTION = re.compile(r"(?:--time[= ]|-t ?)(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def site_seconds(options: tuple[str, ...]) -> float:
    """The time limit in options such as --time=24:00:00 or -t 90, in seconds; 0 for none.

    Slurm reads M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
    """
    seconds = 0.0
    for option in options:
        if match := TIME_OPTION.fullmatch(option.strip()):
            days, *parts = (int(part or 0) for part in match.groups())
            if match[1] is None and match[4] is None:
                parts = [0, *parts[:2]]  # minutes and seconds
            hours, minutes, rest = parts
            seconds = 86400.0 * days + 3600 * hours + 60 * minutes + rest
    return seconds


def batch_script(job: Job) -> str:
    """The script that sbatch gets. Site lines (`extra`) come last, so that they hold."""
    more = []
    if job.cap_seconds:
        more.append(f"#SBATCH --time={hours(job.cap_seconds)}")
    if job.gpus:
        more.append(f"#SBATCH --gpus-per-node={job.gpus}")
    more += [f"#SBATCH {option}" for option in job.extra]
    warning = job.warning_seconds(site_seconds(job.extra))
    return BATCH.format(
        name=job.name, warning=warning, nodes=job.nodes, more="\n".join(more),
        restarts=job.max_restarts, supervisor=" ".join(SUPERVISOR), wait=PASS_ON_AND_WAIT,
    )  # fmt: skip


def launch_script(job: Job) -> str:
    """The script that starts the job's command on every node."""
    return LAUNCH.format(name=job.name, processes=job.gpus or 1, wait=PASS_ON_AND_WAIT)
