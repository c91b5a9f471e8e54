#!/usr/bin/env python3
"""Run one job on the host from its folder: start it, watch it, end it in time, say how it ended.

    .venv-remote/bin/python scripts/jobs/supervisor.py .jobs/NAME

Needs nobody: the laptop may be closed. Reads engine.json, starts the command (which goes on with
the run where one has begun), passes INT, TERM and USR2 on, ends the run when its time is up or
when it hangs, starts it again a few times after a hang, and writes `exit` last.

Exit codes: the command's own; 1 where the job's folder cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from jobs import at_end, contract, watchdog  # noqa: E402
from jobs.forecast import Forecast  # noqa: E402
from jobs.gpu_load import GpuLoad  # noqa: E402
from jobs.life import Life  # noqa: E402
from kit import clock, console, lock, publish  # noqa: E402

LOOK_SECONDS = float(os.environ.get("TANDEM_SUPERVISOR_SECONDS") or 1)
AT_ONCE = "9"  # in the file `stop`: without a checkpoint
EARLY_SECONDS = 60  # by so much Slurm's warning may come early
GRACE_SECONDS = 120  # between asking a run to stop and ending it
EXIT_TRIES = 60  # looks during which `exit` is tried on a full disk


class Supervisor:
    """One life of a job: its process, what was asked of it, and when its time is up."""

    def __init__(self, folder: Path):
        self.folder, self.job = folder, contract.read(folder)
        self.process: subprocess.Popen | None = None
        self.life = Life(folder)
        self.forecast, self.gpu = Forecast(self.job), GpuLoad(self.job.gpus)
        self.asked: int = 0  # the signal with which the run was asked to stop
        self.asked_at = 0.0
        self.hung = False
        self.wished = False  # somebody asked by the file `stop`

    def run(self) -> int:
        """Run the job to its end; its exit code."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, lambda number, _: self.ask(number, "it was asked to"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        spent = contract.spent_seconds(self.folder)
        code = 1
        for restart in range(self.job.max_restarts + 1):
            code = self._once(spent)
            if self.asked or not (self.hung or code < 0) or restart == self.job.max_restarts:
                break
            self.log(f"it {'hung' if self.hung else f'was ended by signal {-code}'}; it goes on")
        code = 128 - code if code < 0 else code
        if watchdog.run_state(self.job) == "completed":
            code = 0  # a stop that came after the last step changes nothing
        if self.hung:
            self.life.why = "hung"
            with contextlib.suppress(OSError):
                watchdog.record_hung(self.job)
        self.gpu.end()
        self.life.end(code)
        if code > 128 and os.environ.get("TANDEM_REQUEUE") and self._has_time(spent):
            self.log("Slurm ends this life of the job, which may go on in another")
            return code  # the batch script writes `exit` where it does not
        at_end.run(self.folder, self.job, code, self.log)
        self._publish_exit(code)
        return code

    def _publish_exit(self, code: int) -> None:
        """Write `exit`; on a full disk try for a while, since it is the truth about the end."""
        for _ in range(EXIT_TRIES):
            with contextlib.suppress(OSError):
                contract.write_exit(self.folder, code)
                break
            time.sleep(LOOK_SECONDS)

    def _has_time(self, spent: float) -> bool:
        """Whether another life may go on: nobody asked for the end, and the budget has time."""
        remaining = self.job.cap_seconds - spent - self.life.seconds
        last = self.job.cap_seconds and remaining <= self.job.warning_seconds() + EARLY_SECONDS
        return not self.wished and not last

    def _once(self, spent: float) -> int:
        """Start the command and wait for its end; its exit code, negative for a signal."""
        self.hung, watch = False, watchdog.Watchdog(self.job)
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.job.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=os.environ | self.job.environment(self.folder),
            )  # fmt: skip
        if self.asked:  # it came while the command was started
            self._send(self.asked)
        while True:
            try:
                return self.process.wait(timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                self._look(spent, watch)

    def _look(self, spent: float, watch: watchdog.Watchdog) -> None:
        now, wish = time.monotonic(), self._wish()  # a clock that is set makes no run hang
        self.life.seen(self.gpu.text)
        used = spent + self.life.seconds
        self.wished = self.wished or (bool(wish) and not self.asked)
        if wish == AT_ONCE or (self.asked and now - self.asked_at > GRACE_SECONDS):
            self.asked = self.asked or signal.SIGTERM
            late = f"no end {GRACE_SECONDS} s after it was asked to"
            self.log(f"it is ended at once: {'it was asked to' if wish == AT_ONCE else late}")
            self._send(signal.SIGKILL)
        elif self.asked:
            return
        elif wish:
            self.ask(signal.SIGTERM, "it was asked to")
        elif self.job.cap_seconds and used > self.job.cap_seconds:
            self.life.why = "budget"
            self.ask(signal.SIGTERM, f"its time is up ({console.duration(self.job.cap_seconds)})")
        elif reason := watch.hung(now):
            self.log(f"hung: {reason}; the stacks of its threads follow")
            self.hung = True
            self._send(signal.SIGUSR1)  # faulthandler, registered by the trainer
            time.sleep(1)
            self._send(signal.SIGTERM)
            self._wait_or_kill()
        elif line := self.forecast.line(watch.status, spent, self.life.seconds):
            self.log(line)

    def _wish(self) -> str:
        """What the file `stop` asks for: AT_ONCE, else any text; '' without one."""
        try:
            return (self.folder / "stop").read_text(encoding="utf-8").strip() or "15"
        except OSError:
            return ""

    def _wait_or_kill(self) -> None:
        try:
            self.process.wait(timeout=float(os.environ.get("TANDEM_HUNG_GRACE") or 30))
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)

    def ask(self, signum: int, why: str) -> None:
        """Ask the run to stop with a checkpoint."""
        if self.asked:
            return
        self.asked, self.asked_at = signum, time.monotonic()
        with contextlib.suppress(OSError):
            (self.folder / "stop").write_text(f"{signum}\n", encoding="utf-8")
        self.log(f"it stops with a checkpoint: {why}")
        if self.process and not self.job.stops_by_file:
            self._send(signum)

    def _send(self, signum: int) -> None:
        """A signal for the command; KILL for all that it started."""
        try:
            if signum == signal.SIGKILL:
                os.killpg(self.process.pid, signum)
            else:
                self.process.send_signal(signum)
        except ProcessLookupError:
            pass

    def log(self, text: str) -> None:
        """A line of the job's log; a full disk costs the line and not the watch over the run."""
        line = f"{clock.timestamp()} job {self.folder.name}: {text}\n"
        with contextlib.suppress(OSError), (self.folder / "log.txt").open("a") as f:
            f.write(line)


@contextlib.contextmanager
def only_life(folder: Path):
    """One life of a job at a time: a node that Slurm gave up may still run the last one."""
    with (folder / "lock").open("a") as file:
        waits = False
        while not lock.try_lock(file.fileno(), str(folder)):
            if not waits:
                with (folder / "log.txt").open("a", encoding="utf-8") as f:
                    f.write(f"job {folder.name}: waits for the end of a life that still runs\n")
            waits = True
            time.sleep(LOOK_SECONDS)
        yield


def main(argv: list[str] | None = None) -> int:
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    try:
        with only_life(folder):
            facts = {"pid": os.getpid(), "started": time.time()}
            publish.json_file(folder / "supervisor.json", facts)
            return Supervisor(folder).run()
    except BaseException as error:
        if not isinstance(error, SystemExit):
            with (
                contextlib.suppress(OSError),
                (folder / "log.txt").open("a", encoding="utf-8") as f,
            ):
                f.write(f"job {folder.name}: the supervisor failed: {json.dumps(str(error))}\n")
            contract.write_exit(folder, 1)
        raise


if __name__ == "__main__":
    console.run(main)
