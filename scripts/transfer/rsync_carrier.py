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
from kit.moving_line import MovingLine
from transfer import refusals
from transfer.child_process import ended_with_us
from transfer.host import Host
from transfer.progress_line import ProgressLine
from transfer.received_files import MORE, cut_to_size, use_of
from transfer.refusals import NETWORK
from transfer.retries import TRIES, wait_to_retry

SOME_FILES = {23, 24}
NO_RSYNC = "install rsync there (apt-get install rsync, conda install rsync, brew install rsync)"
# The kernel lets no file that rsync writes pass $1 blocks of 512 bytes; a signal would end rsync
# before it says so.
LIMITED = 'trap "" XFSZ; ulimit -S -f "$1" 2>/dev/null; shift; exec "$@"'
PARTIAL = "/.rsync-partial/"


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

    def fetch(self, sizes: dict[str, int], below: str, target: Path, growth: int) -> set[str]:
        """Copy the files {name: bytes} from the folder `below` in the kit there into `target`.

        A host that sends more bytes or files than it listed is cut off.
        """
        target.mkdir(parents=True, exist_ok=True)
        guard = TransferGuard(target, sizes, growth)
        try:
            self._copy(list(sizes), self.host.rsync_target(below), folder_here(target),
                       sum(sizes.values()), guard)  # fmt: skip
        except RsyncFailed as failed:
            if failed.rc not in SOME_FILES:  # those show up in the comparison
                raise
            self.cause = f" ({failed})"
        if guard.passed:
            self.cause = f" ({MORE})"
            for path in target.rglob("*"):
                if PARTIAL in f"{path}" and not path.is_dir():
                    path.unlink()
        return cut_to_size(target, sizes)

    def _copy(
        self,
        names: list[str],
        source: str,
        target: str,
        total: int,
        guard: TransferGuard | None = None,
    ) -> None:
        listed = self.host.private / f"files.{os.urandom(4).hex()}"
        listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
        shown = [rsync_tool.PROGRESS] if self.modern else ["--progress"]
        command = [self.tool, *rsync_tool.CORE, *shown, f"--files-from={listed}"]
        command += [*self.host.rsync_shell(), source, target]
        if guard:
            command = ["sh", "-c", LIMITED, "sh", str(guard.blocks), *command]
        self._persist(command, ProgressLine(total if self.modern else 0), guard)

    def _persist(
        self, command: list[str], progress: ProgressLine, guard: TransferGuard | None
    ) -> None:
        tries, once_more = 0, True
        while True:
            silent = not progress.total  # Apple's rsync does not say how far it is
            with MovingLine(f"{self.host.name}: copying") if silent else contextlib.nullcontext():
                rc, stderr = _once(command, self.host.environment(), progress, guard)
            if guard and "File too large" in stderr:
                guard.passed = True
            if rc == 0 or (guard and guard.passed):
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
        if refusals.is_noisy(stderr):
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
    return (
        refusals.is_noisy(stderr)
        or refusals.is_final(stderr)
        or any(text in stderr for text in texts)
    )


class TransferGuard:
    """Ends a transfer that brings more bytes or files into a folder than were listed.

    `growth`: bytes that may come beyond the listing; what earlier tries left is not counted.
    """

    def __init__(self, folder: Path, sizes: dict[str, int], growth: int):
        left_bytes, left_files = use_of(folder, lambda path: PARTIAL in path)
        self.folder, self.passed = folder, False
        self.bytes = sum(sizes.values()) + growth + left_bytes
        self.files = 2 * len(sizes) + left_files + 10  # a file that is written has two names
        self.blocks = -(-(max(sizes.values(), default=0) + growth) // 512)

    def watch(self, process: subprocess.Popen) -> None:
        """Look again and again, and terminate `process` once a limit is passed."""
        pause = 0.2
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
                return
            began = time.monotonic()
            size, number = use_of(self.folder)
            if size > self.bytes or number > self.files:
                self.passed = True
                process.terminate()
                return
            pause = max(0.2, 20 * (time.monotonic() - began))


def _once(
    command: list[str], env: dict[str, str], progress: ProgressLine, guard: TransferGuard | None
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
        with ended_with_us(process):
            while chunk := os.read(process.stdout.fileno(), 65536):
                _read_progress(chunk, progress)
            process.wait()
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
