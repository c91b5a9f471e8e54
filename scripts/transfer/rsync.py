"""rsync as a subprocess: which one, its progress, and what to do when it fails.

The options are those that rsync 3 and Apple's openrsync share. What each exit code asks for:
10, 12, 30, 35, 255 are the network: again, five times, after 2 to 32 s; 23 and 24 (some files
failed or vanished): once more; 11: the disk; everything else is final.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kit import console
from transfer.host import FINAL, Host

COMMON = ["-rlt", "--partial-dir=.rsync-partial", "--timeout=60", "--from0"]
NETWORK = {10, 12, 30, 35, 255}
SOME_FILES = {23, 24}
TRIES = 5
PROBE = 10  # seconds in which an rsync has to say its version
NO_RSYNC = "install rsync there (apt-get install rsync, conda install rsync, brew install rsync)"


class Failed(console.Problem):
    """rsync gave up; `rc` is its exit code."""

    def __init__(self, text: str, remedy: str, rc: int):
        self.rc = rc
        super().__init__(text, remedy)


def find() -> tuple[str, bool]:
    """(the rsync to use, whether it knows --info=progress2). Asked, never read off a version."""
    homebrew = ["/opt/homebrew/bin/rsync", "/usr/local/bin/rsync"]
    named = os.environ.get("RSYNC")
    candidates = [named] if named else [*homebrew, "rsync"]
    here = [path for path in map(shutil.which, candidates) if path]
    if not here:
        what = f"RSYNC={named} is no program" if named else "rsync is not installed here"
        raise console.Problem(what, "install it: apt-get install rsync, brew install rsync")
    plain = ""
    for path in here:
        shows = _shows_progress(path)
        if shows:
            return path, True
        if shows is not None:
            plain = plain or path
    if not plain:
        raise console.Problem("no rsync here can be used", "install one, or name one in RSYNC=…")
    return plain, False


@functools.cache
def _shows_progress(path: str) -> bool | None:
    """Whether this rsync knows --info=progress2; None, and a warning, where it does not answer."""
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        probe = [path, "--info=progress2", "--version"]
        return subprocess.run(probe, check=False, timeout=PROBE, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        console.warn(f"{path} gives no answer to --version within {PROBE} s: not used")
        return None


def copy(host: Host, names: list[str], source: str, target: str, total: int) -> None:
    """Copy the files `names` (relative to both) from `source` to `target`; `total` bytes in all.

    One of the two is on the host, as Host.rsync_target gives it. Tries again as the module says;
    raises Failed with one line and its remedy.
    """
    tool, modern = find()
    with tempfile.NamedTemporaryFile(prefix="tandem-files.") as listed:
        listed.write(b"".join(os.fsencode(name) + b"\0" for name in names))
        listed.flush()
        shown = ["--info=progress2"] if modern else ["--progress"]
        command = [tool, *COMMON, *shown, f"--files-from={listed.name}", *host.rsync_shell()]
        _persist(host, [*command, source, target], Progress(total, modern))


def _persist(host: Host, command: list[str], progress: Progress) -> None:
    tries, once_more = 0, True
    while True:
        rc, stderr = _once(command, host.env, progress)
        if rc == 0:
            return
        tries += 1
        if rc == 11 or "No space left on device" in stderr:
            remedy = f"look at df -h here and on {host.name}, free space, run it again"
            raise Failed(f"writing failed while copying ({_cause(stderr)})", remedy, rc)
        if "command not found" in stderr or rc == 127:
            raise Failed(f"{host.name}: rsync is missing there", NO_RSYNC, rc)
        if rc in SOME_FILES and once_more:
            once_more = False
        elif rc in NETWORK and tries <= TRIES and not FINAL.search(stderr):
            pause = wait_before(tries)
            console.warn(
                f"{host.name}: connection lost (rsync {rc}: {_cause(stderr)}); "
                f"again in {pause:.0f} s, try {tries} of {TRIES}"
            )
            time.sleep(pause)
        else:
            known = host.problem(rc, stderr) if FINAL.search(stderr) else None
            raise Failed(
                str(known or f"{host.name}: rsync ended with {rc} ({_cause(stderr)})"),
                "" if known else "run the same command again: it goes on where it stopped",
                rc,
            )


def wait_before(attempt: int) -> float:
    """Seconds before try `attempt` (from 1): 2, 4 … 32, each give or take a quarter.

    TANDEM_RETRY_WAIT replaces the 2 s.
    """
    first = float(os.environ.get("TANDEM_RETRY_WAIT") or 2)
    return min(first * 2 ** (attempt - 1), 16 * first) * random.uniform(0.75, 1.25)


def _once(command: list[str], env: dict[str, str], progress: Progress) -> tuple[int, str]:
    """One run of rsync: its exit code and stderr. Ended with this process, whatever ends it."""
    env = env | {"LC_ALL": "C"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, **pipes) as process:
        caught: list[bytes] = []
        errors = threading.Thread(target=lambda: caught.append(process.stderr.read()), daemon=True)
        errors.start()
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                progress.read(chunk)
            process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            raise
        errors.join()
    progress.end()
    if process.returncode == 20:  # Apple's rsync after a Ctrl-C that it saw before we did
        raise KeyboardInterrupt
    stderr = b"".join(caught).decode(errors="replace")
    return (255 if process.returncode < 0 else process.returncode), stderr


class Progress:
    """One line that moves on a terminal; elsewhere one line for each 10 %."""

    def __init__(self, total: int, modern: bool):
        self.total, self.modern, self.shown = total, modern, 0
        self.terminal = sys.stderr.isatty()
        self.began = time.monotonic()

    def read(self, chunk: bytes) -> None:
        """Take a piece of rsync's output; its last `12,345  67%` counts."""
        found = re.findall(rb"([\d,]+) +(\d+)% ", chunk) if self.modern else []
        if not found or not self.total:
            return
        done = int(found[-1][0].replace(b",", b""))
        percent = min(100, 100 * done // self.total)
        rate = f"{console.size(done / max(0.001, time.monotonic() - self.began))}/s"
        if self.terminal:
            print(f"\r{percent:4d} %  {rate}   ", end="", file=sys.stderr, flush=True)
            self.shown = percent
        elif percent // 10 > self.shown // 10 and time.monotonic() - self.began > 2:
            console.note(f"      {percent} %  {console.size(done)}  {rate}")
            self.shown = percent

    def end(self) -> None:
        """Leave the line."""
        if self.terminal and self.shown:
            print(file=sys.stderr, flush=True)
            self.shown = 0


def _cause(stderr: str) -> str:
    """The line of rsync's stderr that says why: the first that is not rsync's own summary."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" @\t")]
    for line in lines:
        if not line.startswith(("rsync error:", "rsync: connection unexpectedly closed")):
            return line
    return lines[0] if lines else "it said nothing"


def local(folder: Path) -> str:
    """A folder of this machine as rsync names it: absolute, so that no colon reads as a host."""
    return f"{folder.absolute()}/"
