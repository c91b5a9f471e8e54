"""One run on several hosts of one's own (HOSTS="gpu1 gpu2"): whether they are alike, the launch.

Each host gets the same job with the same run id and starts one torchrun; they meet (c10d) at the
host with the lowest address, which torch makes rank 0: the run's files are there. Every host keeps
the checkpoints on its own disk. A stop on any of them stops all.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

from jobs.contract import Job
from jobs.detached import no_kit
from kit import console
from transfer.host import Host, ScriptFailed, quote
from transfer.listing import read_facts

FACTS = """
CDPATH= cd {root} 2>/dev/null || exit 97
printf 'torch %s\\n' "$(.venv-remote/bin/python -c \
'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null)"
printf 'driver %s\\n' "$(sed -n 's/.*[^0-9.]\\([0-9][0-9][0-9]\\.[0-9.]*\\).*/\\1/p' \
/proc/driver/nvidia/version 2>/dev/null | head -n 1)"
set -- $SSH_CONNECTION
address=${{3:-127.0.0.1}}
printf 'address %s\\n' "$address"
printf 'interface %s\\n' "$(ip -o addr 2>/dev/null |
  awk -v a="$address/" 'index($4, a) == 1 {{print $2; exit}}')"
printf 'gpus %s\\n' "$(ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l | tr -d ' ')"
exit 0
"""
# What follows `COMMAND &` and `pid=$!`: TERM and INT go to the command, and $code is how it ended,
# though a signal ends each `wait` early.
PASS_ON_AND_WAIT = """trap 'kill -TERM "$pid" 2>/dev/null' TERM INT
while :; do
  wait "$pid"
  code=$?
  kill -0 "$pid" 2>/dev/null || break
done"""
LAUNCH = """job=.jobs/{name}
rm -rf "$job/notes" && mkdir -p "$job/notes"
.venv-remote/bin/python -m torch.distributed.run --nnodes {nodes} --nproc-per-node {processes} \\
  --rdzv-backend c10d --rdzv-endpoint {meeting} --rdzv-id {run_id} \\
  --rdzv-conf is_host={is_host} --local-addr {address} "$@" &
pid=$!
{wait}
noted=$(cat "$job"/notes/* 2>/dev/null | sed -n 's/.*"code": \\([0-9]*\\).*/\\1/p' | head -n 1)
exit "${{noted:-$code}}"
"""


def look(host: Host) -> dict[str, str]:
    """What the host has: torch, driver, address, interface, gpus; '' for nothing."""
    try:
        output = host.run(FACTS.format(root=quote(host.root)), repeatable=True)
    except ScriptFailed as failed:
        if failed.exit_code == 97:
            raise no_kit(host) from None
        raise
    return read_facts(host, output.rstrip(b"\n"))


def refuse_unlike(facts: Mapping[str, Mapping[str, str]]) -> None:
    """Problem where a host has no torch, or where torch or driver differ; both values are named."""
    (first, wanted), *others = facts.items()
    for name, own in facts.items():
        if not own.get("torch"):
            raise console.Problem(
                f"{name} has no training environment", f"make setup-remote HOST={name}"
            )
    for name, own in others:
        for what in ("torch", "driver", "gpus"):
            if own.get(what) != wanted.get(what):
                values = [value.get(what) or "none" for value in (wanted, own)]
                raise console.Problem(
                    f"{first} has {what} {values[0]} and {name} has {what} {values[1]}: "
                    "the ranks of one run must be alike",
                    "leave one out of HOSTS, or make them the same"
                    + (f" (make setup-remote HOST={name})" if what == "torch" else ""),
                )
    addresses = [own.get("address", "") for own in facts.values()]
    if len(set(addresses)) < len(addresses) and set(addresses) != {"127.0.0.1"}:
        raise console.Misuse(
            f"{' and '.join(facts)} are one machine ({addresses[0]})", "name each host once"
        )


def in_order(facts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names by address, as torch orders the ranks: the run's files are on the first."""
    return sorted(facts, key=lambda name: facts[name].get("address", ""))


def jobs(job: Job, facts: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> list[Job]:
    """The job of each host: the same run, one meeting point, its own address."""
    port = 20_000 + zlib.crc32(job.run_id.encode()) % 20_000
    processes = job.gpus or int(facts[names[0]].get("gpus") or 0) or 1
    first = facts[names[0]]["address"]
    return [
        dataclasses.replace(
            job, nodes=len(names), gpus=processes, meeting=f"{first}:{port}",
            address=facts[name]["address"], interface=facts[name].get("interface", ""),
        )
        for name in names
    ]  # fmt: skip


def launch_script(job: Job) -> str:
    """The script that starts the job's command on this host, with its share of the ranks."""
    return LAUNCH.format(
        name=job.name, nodes=job.nodes, processes=job.gpus or 1, meeting=job.meeting,
        wait=PASS_ON_AND_WAIT,
        run_id=job.run_id, address=job.address,
        is_host=int(job.meeting.startswith(f"{job.address}:")),  # torch would ask its own name
    )  # fmt: skip
