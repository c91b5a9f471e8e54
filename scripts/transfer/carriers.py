"""How files get to a host and back: rsync, a plain copy (a folder), tar over ssh (no rsync).

All three have `send` and `fetch` of one shape. They only move bytes into staging folders: what
arrived is hashed on both sides afterwards, whichever of them brought it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

from checks import rsync_tool
from kit import console
from transfer import host_shell, local_files, refusals
from transfer.frame import AnswerLimits, BrokenAnswer
from transfer.host import TRIES, ConnectionLost, FolderHost, Host, quote, wait_to_retry
from transfer.listing import LISTING_BYTES, HostState, ListedFile, read_listing
from transfer.progress_line import ProgressLine
from transfer.rsync_carrier import NO_RSYNC, SLACK, RsyncCarrier

BLOCK = 1 << 20
LISTING_LIMITS = AnswerLimits(stdout=LISTING_BYTES)
TAR_SILENCE = 600  # seconds: while files are sent, the host says nothing


def carrier_for(host: Host, state: HostState) -> RsyncCarrier | CopyCarrier | TarCarrier:
    """The carrier that both sides have; a note says why it is a slower one."""
    named = os.environ.get("RSYNC")
    if host.is_folder and not named:
        return CopyCarrier(host)
    tool = rsync_tool.choose()
    if named and tool is None:
        raise console.Problem(
            rsync_tool.missing() if not rsync_tool.installed() else f"RSYNC={named} does not run",
            f"unset RSYNC, or install it: {rsync_tool.INSTALL}",
        )
    if tool and host.is_folder:
        return RsyncCarrier(host, *tool)
    if tool and state.facts.get("rsync") and not host.banner:
        return RsyncCarrier(host, *tool)
    if not state.facts.get("tar"):
        raise console.Problem(f"{host.name}: rsync is missing there, and tar too", NO_RSYNC)
    if host.banner:
        said = refusals.last_line(host.banner.decode(errors="replace"))[:80]
        why, remedy = f"its login prints something ({said})", refusals.START_FILE
    elif tool:
        why, remedy = "it has no rsync", NO_RSYNC
    else:
        why, remedy = "no rsync on this machine", f"install it: {rsync_tool.INSTALL}"
    console.note(
        f"slower    {host.name}: {why}, so files go by tar, one whole file at a time; {remedy}"
    )
    return TarCarrier(host)


class CopyCarrier:
    """Plain copies, for a folder that stands in for a host. A file that is whole is not copied
    again."""

    resumes_inside_files = False
    cause = ""

    def __init__(self, host: FolderHost):
        self.host = host

    def _there(self, below: str) -> Path:
        return self.host.folder / self.host.address.remote_dir / below

    def send(self, names: list[str], source: Path, below: str, total: int) -> None:
        """Copy `names` from the folder `source` here into the folder `below` in the kit there."""
        with ProgressLine(total) as line:
            for name in names:
                copy_whole(source / name, self._there(below) / name, line.add)

    def fetch(self, names: list[str], below: str, target: Path, sizes: dict[str, int]) -> None:
        """Copy `names` from the folder `below` in the kit there into `target` here."""
        with ProgressLine(sum(sizes.values())) as line:
            for name in names:
                limit = int(sizes[name] * 1.1) + SLACK
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    copy_whole(self._there(below) / name, target / name, line.add, limit)


def copy_whole(
    source: Path, target: Path, count: Callable[[int], object], limit: int | None = None
) -> None:
    """A copy with its time and executable bit that appears at `target` when it is whole.

    Nothing where an earlier copy of the same file is there already. Only regular files.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as f:
        facts = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            there = os.stat(target, follow_symlinks=False)
            if (there.st_size, there.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns):
                count(facts.st_size)
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name[:200]}.part")
        copied = 0
        with open(part, "wb") as out:
            while block := f.read(BLOCK):
                copied += len(block)
                if limit is not None and copied > limit:
                    break  # it grows faster than it is read; the comparison will tell
                out.write(block)
                count(len(block))
    settle(part, target, facts.st_mtime_ns, bool(facts.st_mode & 0o100))


def settle(part: Path, target: Path, mtime_ns: int, executable: bool) -> None:
    """Give a whole `part` its time, its executable bit and its name."""
    os.chmod(part, 0o755 if executable else 0o644)
    os.utime(part, ns=(mtime_ns, mtime_ns))
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(part, target)


class TarCarrier:
    """tar over ssh, inside the frame, so that a login's banner does no harm. Whole files only: an
    interrupted one starts again, those before it stay."""

    resumes_inside_files = False
    cause = ""

    def __init__(self, host: Host):
        self.host = host

    def send(self, names: list[str], source: Path, below: str, total: int) -> None:
        """Copy `names` from the folder `source` here into the folder `below` in the kit there."""
        where = f"{quote(self.host.root)}/{quote(below)}" if below else quote(self.host.root)
        self._persist(lambda: self._send_once(where, names, source, total))

    def _send_once(self, where: str, names: list[str], source: Path, total: int) -> None:
        """Send what is not there yet: tar gives a file its time when it is whole."""
        script = f"{host_shell.HEAD}{host_shell.LISTING}mkdir -p {where} && cd {where} && "
        output = self.host.run(f"{script}list_files .\n", limits=LISTING_LIMITS, repeatable=True)
        there = read_listing(self.host, output).files
        names = [n for n in names if not _is_same(there.get(n), local_files.look(source / n))]
        if not names:
            return
        script = f"{host_shell.HEAD}cd {where} && tar xf -\n"
        remote = self.host.start(script, keep_input=True)
        answer = BackgroundAnswer(self.host, remote)
        try:
            out = remote.process.stdin
            with ProgressLine(total) as line, tarfile.open(fileobj=out, mode="w|") as tar:
                for name in names:
                    self._add(tar, source, name)
                    line.show(tar.offset)
            remote.process.stdin.close()
        except (BrokenPipeError, ConnectionError):
            pass  # the answer says why
        answer.check()

    def _add(self, tar: tarfile.TarFile, source: Path, name: str) -> None:
        """One regular file; one that is gone by now is left out, and the comparison tells."""
        with contextlib.suppress(FileNotFoundError), open(source / name, "rb") as f:
            facts = os.fstat(f.fileno())
            member = tarfile.TarInfo(name)
            member.size, member.mtime = facts.st_size, facts.st_mtime_ns / 1e9
            member.mode = 0o755 if facts.st_mode & 0o100 else 0o644
            tar.addfile(member, _Padded(f, facts.st_size))

    def fetch(self, names: list[str], below: str, target: Path, sizes: dict[str, int]) -> None:
        """Copy `names` from the folder `below` in the kit there into `target` here."""
        self._persist(lambda: self._fetch_once(names, below, target, sizes))

    def _fetch_once(
        self, names: list[str], below: str, target: Path, sizes: dict[str, int]
    ) -> None:
        """Only the regular files that were asked for, and no more bytes than were listed."""
        names = [n for n in names if not (target / n).is_file()]
        if not names:
            return
        listed = b"".join(os.fsencode(f"./{name}") + b"\0" for name in names)
        where = f"{quote(self.host.root)}/{quote(below)}"
        script = f"{host_shell.HEAD}cd {where} && tar --null -cf - -T - 2>/dev/null || true\n"
        remote = self.host.start(script, data=listed)
        reader, writer = os.pipe()
        answer = BackgroundAnswer(self.host, remote, writer)
        wanted = set(names)
        with (
            open(reader, "rb") as stream,
            contextlib.suppress(tarfile.ReadError, EOFError),
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                self._take(tar, member, wanted, target, sizes)
        answer.check()

    def _take(self, tar, member, wanted: set[str], target: Path, sizes: dict[str, int]) -> None:
        name = member.name.removeprefix("./")
        if name not in wanted or not member.isreg() or member.size > sizes[name] * 1.1 + SLACK:
            return
        part = (target / name).with_name(f".{os.path.basename(name)[:200]}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as out:
            shutil.copyfileobj(tar.extractfile(member), out, BLOCK)
        if part.stat().st_size == member.size:
            settle(part, target / name, int(member.mtime * 1e9), bool(member.mode & 0o100))

    def _persist(self, once: Callable[[], None]) -> None:
        tries = 0
        while True:
            try:
                return once()
            except ConnectionLost as lost:
                tries += 1
                if tries > TRIES:
                    raise
                wait_to_retry(self.host.name, lost, tries)


def _is_same(there: ListedFile | None, here: ListedFile | None) -> bool:
    """Whether size and time agree. SHA-256 is compared afterwards all the same."""
    return bool(there and here) and there[:2] == here[:2]


class BackgroundAnswer:
    """Reads a script's framed answer in the background, into `pipe` where one is given."""

    def __init__(self, host: Host, remote, pipe: int | None = None):
        self.host, self.remote, self.pipe = host, remote, pipe
        self.framed, self.broken = None, ""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        def pass_on(piece: bytes) -> None:
            view = memoryview(piece)
            while view:
                view = view[os.write(self.pipe, view) :]

        try:
            sink = pass_on if self.pipe is not None else None
            self.framed = self.remote.answer(AnswerLimits(silence=TAR_SILENCE), sink)
        except BrokenAnswer as broken:
            self.broken = str(broken)
        except BrokenPipeError:
            self.broken = "its files are no tar archive"
        finally:
            if self.pipe is not None:
                os.close(self.pipe)

    def check(self) -> None:
        """Wait for the end; a Problem if the script or the connection failed."""
        self.thread.join()
        if self.broken:
            raise console.Problem(f"{self.host.name}: {self.broken}", "look at what it does there")
        self.host.check(self.framed, self.remote)


class _Padded:
    """A file that gives exactly `size` bytes: one that shrinks while it is read ends in zeros."""

    def __init__(self, f, size: int):
        self.f, self.left = f, size

    def read(self, n: int) -> bytes:
        n = min(n, self.left)
        block = self.f.read(n)
        self.left -= n
        return block + bytes(n - len(block))
