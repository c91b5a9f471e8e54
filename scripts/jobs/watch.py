"""Follow a detached job or a training run on the host, across lost connections."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable

from jobs import contract, engines
from jobs.detached import ALIVE
from kit import console
from transfer.adapter_units import RUN_ID
from transfer.frame import AnswerLimits
from transfer.host import Host, ScriptFailed, open_host, quote
from transfer.listing import read_facts
from transfer.retries import wait_before

QUIET = 120  # seconds without a heartbeat after which a run is said to be silent
ASK_SECONDS = 10  # between two questions to the scheduler
PIECE = 1 << 20  # bytes of a log in one look; the rest comes with the next
NO_JOB = (96, 97)  # exit codes of LOOK: no such job or run, no kit
LOOK = """
killed=''
ended() {{ # whether its exit file holds a code: an empty or damaged one is no end
  case $(head -c 10 "$1/exit" 2>/dev/null | tr '\\000' x) in (''|*[!0-9]*) return 1;; esac
}}
CDPATH= cd {root} 2>/dev/null || exit 97
name={name}
if [ -z "$name" ]; then
  newest=$(ls -t adapters/runs/*/status.json 2>/dev/null | head -n 1)
  at=${{newest%/status.json}}
elif [ -d ".jobs/$name" ]; then
  at=.jobs/$name
  ended "$at" || [ -f "$at/batch.sh" ] || {{ started "$at" && alive "$at"; }} || killed=yes
else at=adapters/runs/$name; fi
[ -n "$at" ] && [ -d "$at" ] || exit 96
echo "at $at"
echo "now $(date +%s)"
echo "killed $killed"
echo "exit $(head -c 10 "$at/exit" 2>/dev/null)"
run=$(sed -n 's/^ *"run_id": "\\([A-Za-z0-9._-]*\\)".*/\\1/p' "$at/engine.json" 2>/dev/null)
status=$at/status.json
[ -z "$run" ] || status=adapters/runs/$run/status.json
echo "status $(head -c 3000 "$status" 2>/dev/null | tr '\\n\\r' '  ')"
echo
tail -c +{after} "$at/log.txt" 2>/dev/null | head -c {piece}
exit 0
"""


class JobView:
    """What the host said at one look. Odd or missing values of a status count as unknown."""

    def __init__(self, host: Host, output: bytes):
        head, _, self.log = output.partition(b"\n\n")
        facts = read_facts(host, head)
        folder, _, self.name = facts.get("at", "").rpartition("/")
        self.is_job = folder == ".jobs"  # its end is its exit code, whatever its run records
        if not RUN_ID.fullmatch(self.name):
            raise console.Problem(
                f"{host.name}: its answer names no job or run ({self.name[:80]!r})",
                "look at .jobs/ and adapters/runs/ there",
            )
        self.code = facts.get("exit", "")  # read after the look at the process, which writes it
        self.code = self.code if self.code.isdigit() else ""
        self.killed = bool(facts.get("killed")) and not self.code
        self.status: dict = {}
        with contextlib.suppress(ValueError, RecursionError):
            status = json.loads(facts.get("status") or "{}")
            self.status = status if isinstance(status, dict) else {}
        beat = self._number("heartbeat")
        self.silent = float(facts.get("now") or 0) - beat if beat else 0.0

    def _number(self, key: str) -> float | None:
        value = self.status.get(key)
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if plain and abs(value) < 1e15 else None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        ended = not self.is_job and self.status.get("state", "running") != "running"
        return self.killed or bool(self.code) or ended

    def words(self) -> str:
        """`20261121-081530-3f2a  running  step 120/900  loss 1.234`"""
        if not self.status:
            ended = f"ended with {self.code}" if self.code else "running"
            return f"{self.name}  {'was killed there' if self.killed else ended}"
        step, of, loss = map(self._number, ("step", "max_steps", "loss"))
        parts = [self.name, str(self.status.get("state", "?"))[:40]]
        parts += [f"step {step:.0f}/{of:.0f}" if of else f"step {step:.0f}"] if step else []
        parts += [f"loss {loss:.4g}"] if loss is not None else []
        if not self.over and self.silent > QUIET:
            parts.append(f"no heartbeat for {console.duration(self.silent)}")
        return "  ".join(parts)


def must_not_be_killed(host: Host, view: JobView) -> None:
    """A Problem for a job that is gone and left no exit code."""
    if view.killed:
        raise console.Problem(
            f"{view.name} was killed there, no exit code is left (a restart? memory full?)",
            f"read the end of {host.place}/.jobs/{view.name}/log.txt, then start it again",
        )


def look(host: Host, name: str, seen: int) -> JobView:
    """One look at the job or run `name` ('' means the newest run), its log from byte `seen`."""
    place = {"root": quote(host.root), "name": quote(name)}
    script = ALIVE + LOOK.format(after=seen + 1, piece=PIECE, **place)
    try:
        return JobView(host, host.run(script, limits=AnswerLimits(stdout=2 * PIECE)))
    except ScriptFailed as failed:
        if failed.exit_code not in NO_JOB:
            raise
        what = f"job or run {name}" if name else "run"
        raise console.Misuse(
            f"no {what} at {host.place}", "scripts/host_run.sh HOST -- ls .jobs adapters/runs"
        ) from None


class SchedulerLook:
    """What the scheduler says about a job: asked when it may have ended, else now and then."""

    def __init__(self, ask: Callable[[], engines.JobState] | None):
        self.ask, self.asked_at = ask, 0.0
        self.state: engines.JobState | None = None

    def over(self, view: JobView) -> bool:
        """Whether the job has ended; asks the scheduler."""
        if self.ask is None:
            return view.over
        if not view.code and time.monotonic() - self.asked_at < ASK_SECONDS:
            return False
        self.state, self.asked_at = self.ask(), time.monotonic()
        return self.state.over

    def must_not_be_gone(self, host: Host, view: JobView) -> None:
        """A Problem for a job that the scheduler has no more and that left no exit code."""
        if self.state and self.state.kind == engines.GONE:
            raise console.Problem(
                f"{view.name} is gone and left no exit code ({self.state.why})",
                f"{contract.make_command('resume', host.name, view.name)} goes on with its run",
            )

    def words(self, view: JobView) -> str:
        """The job's line, with the scheduler's word while it waits in the queue."""
        if self.state and self.state.kind == engines.QUEUED:
            return f"{view.name}  queued ({self.state.why})"
        return view.words()


def follow(host: Host, name: str, ask: Callable[[], engines.JobState] | None = None) -> int:
    """Print the log as it grows, status lines on stderr; until the end. 0 if that was good.

    ask: how the scheduler's state is asked; None where the job's process is its state.
    """
    seen, last_words, lost, scheduler = 0, "", 0, SchedulerLook(ask)
    while True:
        try:
            view = look(host, name, seen)
            over = scheduler.over(view)
        except console.Misuse:
            raise
        except console.Problem as error:
            if not host.reached:
                raise
            lost += 1
            pause = wait_before(lost)
            console.warn(f"{error}; the run there goes on; again in {pause:.0f} s")
            time.sleep(pause)
            continue
        lost, name = 0, view.name
        print_log(view.log)
        seen += len(view.log)
        if len(view.log) == PIECE:
            continue  # there is more
        must_not_be_killed(host, view)
        scheduler.must_not_be_gone(host, view)
        words = scheduler.words(view)
        if words != last_words:
            console.note(words)
            last_words = words
        if over:
            good = view.code == "0" or view.status.get("state") == "completed"
            return console.GOOD if good else console.FAILED
        time.sleep(float(os.environ.get("TANDEM_WATCH_SECONDS") or 2))


def print_log(log: bytes) -> None:
    """A piece of a log to stdout; on a terminal without control sequences, but with progress."""
    if sys.stdout.isatty():
        lines = log.decode(errors="replace").split("\r")
        log = "\r".join(map(console.printable, lines)).encode()
    sys.stdout.buffer.write(log)
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Follow a job or a run on the host.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args(argv)
    if args.name and not RUN_ID.fullmatch(args.name):
        raise console.Misuse(f"{args.name!r} is not a name of a job or run", "use its name alone")
    with open_host(args.host) as host:
        if args.once:
            view = look(host, args.name, 1 << 60)
            console.result(view.words())
            must_not_be_killed(host, view)
            return console.GOOD
        return follow(host, args.name)
