"""Worker processes that hash packages' files and import their modules, one a core.

Hashing may begin while a program still fills the environment: a package is compared as soon as
its last file is there, and once more if its RECORD is another one at the end. Modules are
imported when every file is in place. A worker that dies costs one task. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from setup.installed_packages import (  # noqa: E402
    UNREADABLE,
    modules,
    package_name,
    read_record,
    with_records,
)

POLL = 0.02  # seconds between two looks at a folder that is being filled
MOST_WORKERS = 16
BLOCK = 1 << 19  # bytes


class Findings(NamedTuple):
    """What the workers found: {package: complaints} about files, {module: complaint}, counts."""

    files: dict[str, list[str]]
    imports: dict[str, str]
    packages: int
    file_count: int
    module_count: int


# --- in a worker ------------------------------------------------------------------------------
def file_digest(path: str, size: int = BLOCK) -> str:
    """SHA-256 as RECORD writes it: urlsafe base64 without padding. A small file that has `size`
    bytes is read with one call."""
    file = os.open(path, os.O_RDONLY)  # open() would ask the system twice as much for each file
    try:
        digest = hashlib.sha256(block := os.read(file, min(size + 1, BLOCK)))
        while (len(block) != size or size >= BLOCK) and (block := os.read(file, BLOCK)):
            digest.update(block)
    finally:
        os.close(file)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def compare(site: str, dist_info: str, unchanged_since: int) -> tuple[list[str], int]:
    """(what is wrong with one package's files, one line each; how many files it has).

    A file whose inode has not changed since `unchanged_since` (ns, 0: none) is not read again.
    """
    try:
        rows = read_record(Path(dist_info))
    except UNREADABLE as error:
        return [f"{os.path.basename(dist_info)}/RECORD: unreadable ({error})"], 0
    wrong = []
    for row in rows:
        path = os.path.join(site, row.path)
        try:
            if unchanged_since and _is_unchanged(path, row.size, unchanged_since):
                continue
            if file_digest(path, row.size) != row.digest:
                wrong.append(f"{row.path}: damaged")
        except OSError as error:
            wrong.append(f"{row.path}: {'missing' if error.errno == 2 else error.strerror}")
    return wrong, len(rows)


def _is_unchanged(path: str, size: int, since: int) -> bool:
    facts = os.stat(path)
    return facts.st_ctime_ns <= since and facts.st_size == size


def try_import(module: str) -> tuple[list[str], int]:
    """([why it does not import] or [], 1)."""
    try:
        importlib.import_module(module)
    except BaseException as error:  # a package may well call sys.exit()
        text = " ".join(str(error).split()) or "no message"
        return [f"{type(error).__name__}: {text[:200]}"], 1
    return [], 1


def work() -> None:
    """A worker: reads one task a line, answers one line with [complaints, count], ends at EOF."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints while it is imported is not an answer
    for line in sys.stdin:
        kind, *words = json.loads(line)
        answer = compare(*words) if kind == "files" else try_import(*words)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # no package's exit hooks


# --- in the command ---------------------------------------------------------------------------
class _Worker:
    """One worker process; started again when a task kills it.

    `_process` may be any that has stdin, stdout and wait().
    """

    def __init__(self, options: list[str], process: _ForkedProcess | None = None):
        self._command = [sys.executable, "-I", *options, __file__]
        self._process: subprocess.Popen | _ForkedProcess | None = process

    def ask(self, *task: object) -> tuple[list[str], int]:
        process = self._process = self._process or self._start()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer:
            complaints, count = json.loads(answer)
            return complaints, count
        self._process = None
        return [f"the interpreter died (exit status {process.wait()})"], 1

    def _start(self) -> subprocess.Popen:
        env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | dict(os.environ)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=null, text=True, env=env
        )

    def close(self) -> None:
        if self._process:
            self._process.stdin.close()
            self._process.wait()


class _ForkedProcess:
    """A worker that needs no new interpreter: made before the first thread, for hashing alone."""

    def __init__(self, earlier: list[_ForkedProcess]):
        tasks, self.stdin = _pipe()
        self.stdout, answers = _pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.dup2(tasks.fileno(), 0)
                os.dup2(answers.fileno(), 1)
                for process in (*earlier, self):  # a worker ends when its tasks do
                    process.stdin.close()
                    process.stdout.close()
                sys.stdin = os.fdopen(0)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                work()
            os._exit(1)
        tasks.close()
        answers.close()

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _pipe() -> tuple[IO[str], IO[str]]:
    read, write = os.pipe()
    return os.fdopen(read), os.fdopen(write, "w")


class PackageChecker:
    """Hash every package of `site`, import every module, on all cores.

        checker = PackageChecker(site, imports=True)
        checker.follow(lambda: process.poll() is None)    # while something fills it; optional
        findings = checker.finish()

    Files that have not changed since `unchanged_since` (ns) are not read.
    """

    def __init__(self, site: Path, imports: bool, unchanged_since: int = 0):
        self._site, self._imports, self._since = site, imports, unchanged_since
        self._records: dict[Path, tuple[int, int]] = {}  # dist-info: its RECORD's inode and time
        self._files: dict[Path, tuple[list[str], int]] = {}
        self._modules: dict[str, tuple[list[str], int]] = {}
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._asked = 0
        number = min(os.cpu_count() or 1, MOST_WORKERS)
        forked: list[_ForkedProcess] = []
        for _ in range(number):
            forked.append(_ForkedProcess(forked))
        self._threads = [
            threading.Thread(
                target=self._drive, args=(_Worker(["-S"], process), self._hash), daemon=True
            )
            for process in forked
        ]
        for thread in self._threads:
            thread.start()

    def _drive(self, worker: _Worker, do: Callable) -> None:
        while (task := self._tasks.get()) is not None:
            do(worker, task)
        worker.close()

    def state(self) -> str:
        """How far it has come, in words."""
        if self._modules:
            return f"{len(self._modules)} of {self._asked - len(self._files)} modules imported"
        return f"{len(self._files)} packages compared with their hashes"

    def _hash(self, worker: _Worker, dist_info: Path) -> None:
        task = ("files", str(self._site), str(dist_info), self._since)
        self._files[dist_info] = worker.ask(*task)

    def _import(self, worker: _Worker, module: str) -> None:
        self._modules[module] = worker.ask("import", module)

    def _ask(self, task: object) -> None:
        self._asked += 1
        self._tasks.put(task)

    def follow(self, filling: Callable[[], bool]) -> None:
        """Hash each package as soon as it is complete, as long as `filling()` is true."""
        while filling():
            names = [name for name in os.listdir(self._site) if name.endswith(".dist-info")]
            for dist_info in map(self._site.joinpath, names):
                if dist_info not in self._records and is_complete(dist_info):
                    self._records[dist_info] = _record_state(dist_info)
                    self._ask(dist_info)
            time.sleep(POLL)

    def finish(self) -> Findings:
        """Hash what is left, import everything, and return what was wrong."""
        dist_infos = sorted(with_records(self._site), key=_record_size, reverse=True)
        for dist_info in dist_infos:
            if self._records.get(dist_info) != _record_state(dist_info):
                self._ask(dist_info)
        self._join()
        if self._imports:
            self._import_all(dist_infos)
        wrong = {d: self._files[d][0] for d in dist_infos if self._files[d][0]}
        wrong = {d: own for d, lines in wrong.items() if (own := self._not_shared(d, lines))}
        files = {package_name(d): lines for d, lines in wrong.items()}
        return Findings(
            files,
            {m: complaints[0] for m, (complaints, _) in self._modules.items() if complaints},
            len(dist_infos),
            sum(self._files[d][1] for d in dist_infos),
            len(self._modules),
        )

    def _not_shared(self, dist_info: Path, lines: list[str]) -> list[str]:
        """The complaints without files that another package installs under the same name."""
        own = []
        for line in lines:
            path, damaged = line.removesuffix(": damaged"), line.endswith(": damaged")
            others = (d for d in self._files if damaged and d != dist_info)
            digests = {row.digest for d in others for row in _rows(d) if row.path == path}
            if not digests or file_digest(str(self._site / path)) not in digests:
                own.append(line)
        return own

    def _import_all(self, dist_infos: list[Path]) -> None:
        self._threads = [
            threading.Thread(target=self._drive, args=(_Worker([]), self._import), daemon=True)
            for _ in self._threads
        ]
        for module in dict.fromkeys(m for d in dist_infos for m in modules(_rows(d))):
            self._ask(module)
        for thread in self._threads:
            thread.start()
        self._join()

    def _join(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()


def _rows(dist_info: Path) -> list:
    try:
        return read_record(dist_info)
    except UNREADABLE:
        return []


def is_complete(dist_info: Path) -> bool:
    """Whether uv has put every file of the package in place: it writes INSTALLER after them, and
    the RECORD with what it added last of all."""
    try:
        installer, record = (os.stat(dist_info / name) for name in ("INSTALLER", "RECORD"))
    except OSError:
        return False
    return record.st_mtime_ns >= installer.st_mtime_ns


def _record_size(dist_info: Path) -> int:
    """Bytes of the RECORD: a package of many files takes long to compare and to import."""
    with contextlib.suppress(OSError):
        return os.stat(dist_info / "RECORD").st_size
    return 0


def _record_state(dist_info: Path) -> tuple[int, int]:
    try:
        facts = os.stat(dist_info / "RECORD")
    except OSError:
        return 0, 0
    return facts.st_ino, facts.st_mtime_ns


if __name__ == "__main__":
    work()
