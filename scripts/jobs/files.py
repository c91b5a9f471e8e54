"""Reads and writes a job's folder on a host, here or over ssh."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator
from typing import Any

from jobs import contract, life
from jobs.detached import ALIVE, no_kit
from kit import console
from transfer.frame import AnswerLimits
from transfer.host import Host, ScriptFailed, quote

# One look at a job: its files, whether it lives, its run's status, the clock there.
LOOK = """
CDPATH= cd {root} 2>/dev/null || exit 97
at=.jobs/{name}
[ -d "$at" ] || exit 96
if alive "$at"; then echo "alive yes"; fi
echo "now $(date +%s)"
echo "exit $(head -c 20 "$at/exit" 2>/dev/null)"
echo "id $(head -c 60 "$at/job.id" 2>/dev/null)"
echo "life $(head -c 1000 "$at/life.json" 2>/dev/null | tr '\\n' ' ')"
echo "lives $(tail -c 4000 "$at/lives.jsonl" 2>/dev/null | tr '\\n' '\\t')"
[ -e "$at/engine.json" ] || echo "plain yes"
echo "engine $(head -c 60000 "$at/engine.json" 2>/dev/null | tr '\\n' ' ')"
run=$(sed -n 's/^ *"run_id": "\\([A-Za-z0-9._-]*\\)".*/\\1/p' "$at/engine.json" 2>/dev/null)
if [ -n "$run" ]; then
  echo "status $(head -c 60000 "adapters/runs/$run/status.json" 2>/dev/null | tr '\\n' ' ')"
fi
exit 0
"""

SUBMITTING = """
CDPATH= cd {root} 2>/dev/null || exit 97
mkdir -p .jobs || exit 1
[ -z "$(find {lock} -maxdepth 0 -mmin +5 2>/dev/null)" ] || rm -rf {lock}
if ! mkdir {lock} 2>/dev/null; then
  [ -d {lock} ] && {{ readlink {lock}/owner | head -c 200 >&2; exit 98; }}
  mkdir {lock} || exit 1
fi
ln -s {owner} {lock}/owner 2>/dev/null || : # a full disk takes no file, but mostly a link
"""
RELEASE = """
CDPATH= cd {root} || exit 97
case $(readlink {lock}/owner 2>/dev/null) in (''|{owner}) rm -rf {lock} ;; esac
"""


# What a submission replaces: kept in .before/ until the engine has taken the job.
REPLACED = "engine.json batch.sh launch.sh job.id exit stop notify.done stop.done"
KEEP = f"""
rm -rf .before && mkdir .before || exit 1
for old in {REPLACED}; do
  [ ! -e "$old" ] || cp -p "$old" .before/ || exit 1
done"""
# A folder that holds nothing but what the refused submission wrote goes with it.
TAKE_BACK = f"""
CDPATH= cd {{root}}/.jobs/{{name}} && [ -d .before ] || exit 0
for old in {REPLACED}; do
  if [ -e ".before/$old" ]; then mv -f ".before/$old" "$old" || exit 1; else rm -f "$old"; fi
done
rmdir .before
[ -e engine.json ] || rm -f run.sh environment
[ -s log.txt ] || rm -f log.txt
cd .. && rmdir {{name}} 2>/dev/null
exit 0
"""


@dataclasses.dataclass
class JobFolder:
    """What one look at a job's folder found."""

    alive: bool = False
    plain: bool = False  # a command of host_run.sh --detach, and no job
    exit_code: int | None = None
    id: str = ""
    engine_json: str = ""
    lives: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    status: dict[str, Any] = dataclasses.field(default_factory=dict)
    gpu: str = ""  # how busy the GPUs are, in words
    life: dict[str, float] | None = None  # the one that runs now: began, ended (last seen)
    now: float = 0.0  # the host's clock

    @property
    def completed(self) -> bool:
        """Whether there is nothing left to do: the run is completed, or the job ended well."""
        return self.exit_code == 0 or self.status.get("state") == "completed"

    @property
    def begun(self) -> bool:
        """Whether an engine ever took the job: it has a number, a process, a run or an end."""
        known = self.id or self.lives or self.life or self.status
        return bool(known) or self.alive or self.exit_code is not None


def read_folder(host: Host, name: str) -> JobFolder:
    """Look at .jobs/NAME there. Misuse where there is none, or the name is no name."""
    contract.check_name(name)
    script = ALIVE + LOOK.format(root=quote(host.root), name=name)
    try:
        output = host.run(script, repeatable=True, limits=AnswerLimits(stdout=1 << 18, silence=60))
    except ScriptFailed as failed:
        if failed.exit_code in (96, 97):
            raise console.Misuse(
                f"no job {name} at {host.place}", contract.make_command("jobs", host.name)
            ) from None
        raise
    return parse_folder(output.decode("utf-8", "replace"))


def parse_folder(text: str) -> JobFolder:
    """The JobFolder in the lines of LOOK; odd values count as absent."""
    facts = dict(line.partition(" ")[::2] for line in text.splitlines())
    folder = JobFolder(facts.get("alive") == "yes", facts.get("plain") == "yes")
    code = facts.get("exit", "").strip()
    if re.fullmatch(r"\d{1,3}", code):
        folder.exit_code = int(code)
    folder.id = facts.get("id", "").strip()
    folder.engine_json = facts.get("engine", "")
    folder.lives = contract.lives(facts.get("lives", "").replace("\t", "\n"))
    folder.life = life.running(facts.get("life", ""))
    folder.gpu = life.gpu_words(facts.get("life", ""))
    now = facts.get("now", "")
    folder.now = float(now) if re.fullmatch(r"\d{1,12}", now) else 0.0
    try:
        status = json.loads(facts.get("status") or "{}")
        folder.status = status if isinstance(status, dict) else {}
    except (ValueError, RecursionError):
        folder.status = {}
    return folder


@contextlib.contextmanager
def submitting(host: Host, name: str) -> Iterator[None]:
    """Hold the host's lock for submissions of one job: two laptops may try at the same moment.

    It is a folder, as every host has those. One that a killed command of this machine left behind
    is taken over; one of a laptop that was cut off counts for 5 minutes.
    """
    place = {"root": quote(host.root), "lock": f".jobs/.{name}.submitting"}
    owner = f"{_this_machine()} {os.getpid()}"
    if holder := _take_submission(host, place, owner):
        if _is_dead_here(holder):
            host.run(RELEASE.format(owner=quote(holder), **place))
            holder = _take_submission(host, place, owner)
        if holder:
            raise console.Problem(
                f"another laptop is submitting {name} on {host.name} at this moment",
                "run it again in a minute, then it says what runs; after a cut connection in five",
            )
    try:
        yield
    finally:
        with contextlib.suppress(console.Problem):
            host.run(RELEASE.format(owner=quote(owner), **place))


def _take_submission(host: Host, place: dict[str, str], owner: str) -> str:
    """Take the lock; '' once it is ours, else who holds it ('?' where it does not say)."""
    try:
        host.run(SUBMITTING.format(owner=quote(owner), **place))
    except ScriptFailed as failed:
        if failed.exit_code == 98:
            return failed.complaint.strip() or "?"
        if failed.exit_code == 97:
            raise no_kit(host) from None
        raise
    return ""


def _this_machine() -> str:
    """A name that no other laptop has, for the owner of a lock: its network card and its name."""
    name = re.sub(r"[^A-Za-z0-9.-]", "", socket.gethostname())[:64]
    return f"{uuid.getnode():x}-{name}"


def _is_dead_here(owner: str) -> bool:
    """Whether the lock was taken by a process of this machine that has ended."""
    machine, _, number = owner.rpartition(" ")
    if machine != _this_machine() or not re.fullmatch(r"\d{1,9}", number):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def put(host: Host, job: contract.Job, files: dict[str, bytes]) -> None:
    """Write files into .jobs/NAME there, each whole under its name, and forget an earlier end.

    What was there can be restored with take_back.
    """
    lines = [
        f"CDPATH= cd {quote(host.root)} 2>/dev/null || exit 97",
        f"mkdir -p .jobs/{job.name} && cd .jobs/{job.name} || exit 1",
        "trap 'rm -f *.part' EXIT",
    ]
    data = b""
    for name, content in files.items():
        lines += [f"head -c {len(content)} >{name}.part || exit 1"]
        data += content
    lines += [KEEP, "rm -f exit stop notify.done stop.done"]  # once everything is there
    lines += [f"mv {name}.part {name} || exit 1" for name in files]
    try:
        host.run("\n".join(lines), data)
    except ScriptFailed as failed:
        if failed.exit_code == 97:
            raise no_kit(host) from None
        raise


def take_back(host: Host, name: str) -> None:
    """Restore .jobs/NAME there as it was before `put`, for a job that its engine refused."""
    with contextlib.suppress(console.Problem):  # the refusal is what the user has to know
        host.run(TAKE_BACK.format(root=quote(host.root), name=name), repeatable=True)
