"""Files by rsync, and what to do when it fails.

What each exit code asks for: 10, 12, 30, 35, 255 are the network: again, five times, after 2 to
32 s; 23 and 24 (some files failed or vanished): once more; 11: the disk; everything else is final.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from pathlib import Path

from checks import rsync_tool
from kit import console
from transfer import refusals
from transfer.host import TRIES, Host, wait_to_retry
from transfer.progress_line import ProgressLine
from transfer.refusals import NETWORK

SOME_FILES = {23, 24}
NO_RSYNC = "install rsync there (apt-get install rsync, conda install rsync, brew install rsync)"
SLACK = 64 << 20  # bytes by which files may grow while they are fetched


class RsyncFailed(console.Problem):
    """rsync gave up; `rc` is its exit code."""

    def __init__(self, text: str, remedy: str, rc: int):
        self.rc = rc
        super().__init__(text, remedy)


class RsyncCarrier:
    """Sends and fetches files with rsync, which resumes inside a file."""

    resumes_inside_files = True

    def __init__(self, host: Host, tool: str, modern: bool):
        self.host, self.tool, self.modern = host, tool, modern
        self.cause = ""  # what rsync said of files that it could not copy

    def send(self, names: list[str], source: Path, below: str, total: int) -> None:
        """Copy `names` from the folder `source` here into the folder `below` in the kit there."""
        self._copy(names, folder_here(source), self.host.rsync_target(below), total)

    def fetch(self, names: list[str], below: str, target: Path, sizes: dict[str, int]) -> None:
        """Copy `names` from the folder `below` in the kit there into `target` here.

        No more bytes than were listed (and SLACK): a host that sends more is cut off.
        """
        target.mkdir(parents=True, exist_ok=True)
        total = sum(sizes.values())
        guard = ByteGuard(target, int(total * 1.1) + SLACK)
        try:
            self._copy(names, self.host.rsync_target(below), folder_here(target), total, guard)
        except RsyncFailed as failed:
            if failed.rc not in SOME_FILES:  # those show up in the comparison
                raise
            self.cause = f" ({failed})"

    def _copy(
        self, names: list[str], source: str, target: str, total: int, guard: ByteGuard | None = None
    ) -> None:
        listed = self.host.private / f"files.{os.urandom(4).hex()}"
        listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
        shown = [rsync_tool.PROGRESS] if self.modern else ["--progress"]
        command = [self.tool, *rsync_tool.CORE, *shown, f"--files-from={listed}"]
        command += [*self.host.rsync_shell(), source, target]
        self._persist(command, ProgressLine(total if self.modern else 0), guard)

    def _persist(self, command: list[str], progress: ProgressLine, guard: ByteGuard | None) -> None:
        tries, once_more = 0, True
        while True:
            rc, stderr = _once(command, self.host.environment(), progress, guard)
            if guard and guard.passed:
                raise RsyncFailed(
                    f"{self.host.name}: it sent more bytes than it had listed; cut off",
                    "look at what writes there, and at who answers there", 1,
                )  # fmt: skip
            if rc == 0:
                return
            tries += 1
            if rc in SOME_FILES and once_more:
                once_more = False
            elif rc in NETWORK and tries <= TRIES and not _is_final(rc, stderr):
                lost = f"{self.host.name}: connection lost (rsync {rc}: {_cause(stderr)})"
                wait_to_retry(self.host.name, console.Problem(lost), tries)
            else:
                raise self._failed(rc, stderr)

    def _failed(self, rc: int, stderr: str) -> RsyncFailed:
        name = self.host.name
        if rc == 11 or "No space left on device" in stderr:
            remedy = f"look at df -h and df -i here and on {name}, free space, run it again"
            return RsyncFailed(f"writing failed while copying ({_cause(stderr)})", remedy, rc)
        if "command not found" in stderr or rc == 127:
            return RsyncFailed(f"{name}: rsync is missing there", NO_RSYNC, rc)
        if known := refusals.explain(name, rc, stderr):
            return RsyncFailed(known.text, known.remedy, rc)
        if refusals.NOISY_LOGIN.search(stderr):
            return RsyncFailed(
                f"{name}: its login prints something into rsync's connection",
                refusals.START_FILE, rc,
            )  # fmt: skip
        return RsyncFailed(
            f"{name}: rsync ended with {rc} ({_cause(stderr)})",
            "run the same command again: it goes on where it stopped", rc,
        )  # fmt: skip


def _is_final(rc: int, stderr: str) -> bool:
    """Whether another try cannot help: a refused login, a full disk, no rsync there."""
    texts = ("No space left on device", "command not found")
    noisy = refusals.NOISY_LOGIN.search(stderr) is not None
    return noisy or refusals.is_final(stderr) or any(text in stderr for text in texts)


class ByteGuard:
    """Ends a transfer that brings more bytes into a folder than it may."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self.passed = folder, limit, False

    def watch(self, process: subprocess.Popen) -> None:
        """Look every second, and terminate `process` once the limit is passed."""
        pause = 1.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
                return
            began = time.monotonic()
            if folder_bytes(self.folder) > self.limit:
                self.passed = True
                process.terminate()
                return
            pause = max(1.0, 20 * (time.monotonic() - began))


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below `folder`."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{inner}/{name}").st_size
    return total


def _once(
    command: list[str], env: dict[str, str], progress: ProgressLine, guard: ByteGuard | None
) -> tuple[int, str]:
    """One run of rsync: its exit code and stderr. Ended with this process, whatever ends it."""
    env = env | {"LC_ALL": "C"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, **pipes) as process:
        caught = bytearray()
        errors = threading.Thread(target=_read_errors, args=(process, caught), daemon=True)
        errors.start()
        if guard:
            threading.Thread(target=guard.watch, args=(process,), daemon=True).start()
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                _read_progress(chunk, progress)
            process.wait()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            raise
        errors.join()
    progress.end()
    if process.returncode == 20 and not (guard and guard.passed):
        raise KeyboardInterrupt  # Apple's rsync after a Ctrl-C that it saw before we did
    stderr = caught.decode(errors="replace")
    return (255 if process.returncode < 0 else process.returncode), stderr


def _read_errors(process: subprocess.Popen, caught: bytearray) -> None:
    """Keep the first megabyte of stderr and drop the rest."""
    while chunk := process.stderr.read1(1 << 16):
        if len(caught) < 1 << 20:
            caught += chunk


def _read_progress(chunk: bytes, line: ProgressLine) -> None:
    """Take a piece of rsync's --info=progress2; its last `12,345  67%` counts."""
    if matches := re.findall(rb"([\d,]+) +\d+% ", chunk):
        line.show(int(matches[-1].replace(b",", b"")[:18]))


def _cause(stderr: str) -> str:
    """The line of rsync's stderr that says why: the first that is not rsync's own summary."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" @\t")]
    for line in lines:
        if not line.startswith(("rsync error:", "rsync: connection unexpectedly closed")):
            return line
    return lines[0] if lines else "it said nothing"


def folder_here(folder: Path) -> str:
    """A folder of this machine as rsync names it: absolute, so that no colon reads as a host."""
    return f"{folder.absolute()}/"
