"""Follow a detached job or a training run on the host, across lost connections."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time

from jobs.detached import ALIVE
from kit import console
from transfer.host import Host, open_host, quote
from transfer.rsync import wait_before

QUIET = 120  # seconds without a heartbeat after which a run is said to be silent
LOOK = """
killed=''
cd {root} 2>/dev/null || exit 97
name={name}
if [ -z "$name" ]; then
  newest=$(ls -t adapters/runs/*/status.json 2>/dev/null | head -n 1)
  at=${{newest%/status.json}}
elif [ -d ".jobs/$name" ]; then
  at=.jobs/$name
  [ -f "$at/exit" ] || {{ started "$at" && alive "$at"; }} || killed=yes
else at=adapters/runs/$name; fi
[ -n "$at" ] && [ -d "$at" ] || exit 96
echo "at $at"
echo "now $(date +%s)"
echo "killed $killed"
echo "exit $(cat "$at/exit" 2>/dev/null)"
echo "status $(tr '\\n' ' ' <"$at/status.json" 2>/dev/null)"
echo
tail -c +{after} "$at/log.txt" 2>/dev/null
exit 0
"""


class View:
    """What the host said at one look."""

    def __init__(self, output: bytes):
        head, _, self.log = output.partition(b"\n\n")
        facts = dict(line.partition(" ")[::2] for line in head.decode().splitlines())
        self.name = facts["at"].rpartition("/")[2]
        self.code = facts["exit"]  # read after the look at the process, which writes it last
        self.killed = bool(facts["killed"]) and not self.code
        self.status: dict = {}
        with contextlib.suppress(ValueError):
            self.status = json.loads(facts["status"] or "{}")
        beat = self.status.get("heartbeat")
        self.silent = float(facts["now"]) - beat if beat else 0.0

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.killed or bool(self.code) or self.status.get("state", "running") != "running"

    def words(self) -> str:
        """`20261121-081530-3f2a  running  step 120/900  loss 1.234`"""
        if not self.status:
            ended = f"ended with {self.code}" if self.code else "running"
            return f"{self.name}  {'was killed there' if self.killed else ended}"
        step, of = self.status.get("step"), self.status.get("max_steps")
        parts = [self.name, str(self.status.get("state", "?"))]
        parts += [f"step {step}/{of}" if of else f"step {step}"] if step is not None else []
        loss = self.status.get("loss")
        parts += [f"loss {loss:.4g}"] if isinstance(loss, (int, float)) else []
        if not self.over and self.silent > QUIET:
            parts.append(f"no heartbeat for {console.duration(self.silent)}")
        return "  ".join(parts)


def must_not_be_killed(host: Host, view: View) -> None:
    """A Problem for a job that is gone and left no exit code."""
    if view.killed:
        raise console.Problem(
            f"{view.name} was killed there, no exit code is left (a restart? memory full?)",
            f"read the end of {host.place}/.jobs/{view.name}/log.txt, then start it again",
        )


def look(host: Host, name: str, seen: int) -> View:
    """One look at the job or run `name` ('' means the newest run), its log from byte `seen`."""
    script = ALIVE + LOOK.format(root=quote(host.root), name=quote(name), after=seen + 1)
    running = host.start(script)
    try:
        return View(host.finish(running))
    except console.Problem as error:
        if running.process.returncode in (96, 97):
            what = f"job or run {name}" if name else "run"
            raise console.Misuse(
                f"no {what} at {host.place}", "scripts/host_run.sh HOST -- ls .jobs adapters/runs"
            ) from None
        raise error


def follow(host: Host, name: str) -> int:
    """Print the log as it grows, status lines on stderr; until the end. 0 if that was good."""
    seen, said, lost = 0, "", 0
    while True:
        try:
            view = look(host, name, seen)
        except console.Misuse:
            raise
        except console.Problem as error:
            if not seen and not said:  # never reached it
                raise
            lost += 1
            pause = wait_before(lost)
            console.warn(f"{error}; the run there goes on; again in {pause:.0f} s")
            time.sleep(pause)
            continue
        lost, name = 0, view.name
        sys.stdout.buffer.write(view.log)
        sys.stdout.flush()
        seen += len(view.log)
        must_not_be_killed(host, view)
        words = view.words()
        if words != said:
            console.note(words)
            said = words
        if view.over:
            good = view.code == "0" or view.status.get("state") == "completed"
            return console.GOOD if good else console.FAILED
        time.sleep(float(os.environ.get("TANDEM_WATCH_SECONDS") or 2))


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Follow a job or a run on the host.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args(argv)
    if args.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", args.name):
        raise console.Misuse(f"{args.name!r} is no name of a job or run", "use its name alone")
    with open_host(args.host) as host:
        if args.once:
            view = look(host, args.name, 1 << 60)
            print(view.words(), flush=True)
            must_not_be_killed(host, view)
            return console.GOOD
        return follow(host, args.name)
