"""Files by tar over ssh, for hosts without rsync or with a login that prints something."""

from __future__ import annotations

import contextlib
import math
import os
import tarfile
import threading
from pathlib import Path
from typing import IO

from kit import console
from transfer import host_shell, local_files
from transfer.frame import AnswerLimits, BrokenAnswer, TooLong
from transfer.host import Host, quote
from transfer.listing import LISTING_BYTES, ListedFile, read_listing
from transfer.progress_line import ProgressLine
from transfer.received_files import MORE, settle, write_at_most
from transfer.retries import persist

LISTING_LIMITS = AnswerLimits(stdout=LISTING_BYTES)
TAR_SILENCE = 600  # seconds: while files are sent, the host says nothing
FRAME_OF_ALL = 1 << 16  # bytes: the end of an archive, and what tar pads it with
HEADER_BYTES = 1 << 20  # of a name, or of what else describes a file: tarfile holds them
LATEST = 1 << 33  # seconds since 1970 that every file system can hold


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
        persist(self.host.name, lambda: self._send_once(where, names, source, total))

    def _send_once(self, where: str, names: list[str], source: Path, total: int) -> None:
        """Send what is not there yet: tar gives a file its time when it is whole."""
        script = f"{host_shell.HEAD}{host_shell.LISTING}mkdir -p {where} && cd {where} && "
        output = self.host.run(f"{script}list_files .\n", limits=LISTING_LIMITS, repeatable=True)
        remote_files = read_listing(self.host, output).files
        names = [
            n for n in names if not _is_same(remote_files.get(n), local_files.look(source / n))
        ]
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

    def fetch(self, sizes: dict[str, int], below: str, target: Path, growth: int) -> set[str]:
        """Copy the files {name: bytes} from the folder `below` in the kit there into `target`."""
        larger: set[str] = set()
        persist(self.host.name, lambda: self._fetch_once(sizes, below, target, growth, larger))
        return larger

    def _fetch_once(
        self, sizes: dict[str, int], below: str, target: Path, growth: int, larger: set[str]
    ) -> None:
        """Only the regular files that were asked for, and no more bytes than were listed."""
        sizes = {n: size for n, size in sizes.items() if n in larger or not (target / n).is_file()}
        if not sizes:
            return
        listed = b"".join(os.fsencode(f"./{name}") + b"\0" for name in sizes)
        where = f"{quote(self.host.root)}/{quote(below)}"
        script = f"{host_shell.HEAD}cd {where} && tar --null -cf - -T - 2>/dev/null || true\n"
        remote = self.host.start(script, data=listed)
        reader, writer = os.pipe()
        most = sum(map(framed_bytes, sizes.items())) + FRAME_OF_ALL + growth
        answer = BackgroundAnswer(self.host, remote, writer, most)
        with open(reader, "rb") as stream:
            larger |= unpack(stream, sizes, target)
        answer.check()
        if answer.too_long:
            self.cause = f" ({MORE})"


def _is_same(remote: ListedFile | None, here: ListedFile | None) -> bool:
    """Whether size and time agree. SHA-256 is compared afterwards all the same."""
    return bool(remote and here) and remote[:2] == here[:2]


class BackgroundAnswer:
    """Reads a script's framed answer in the background, into `pipe` where one is given.

    `most`: the bytes that may go into the pipe; `too_long`: it was cut off there.
    """

    def __init__(self, host: Host, remote, pipe: int | None = None, most: float = math.inf):
        self.host, self.remote, self.pipe, self.most = host, remote, pipe, most
        self.framed, self.broken, self.too_long = None, "", False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        def pass_on(piece: bytes) -> None:
            view = memoryview(piece)
            while view:
                view = view[os.write(self.pipe, view) :]

        try:
            sink = pass_on if self.pipe is not None else None
            limits = AnswerLimits(silence=TAR_SILENCE, streamed=self.most)
            self.framed = self.remote.answer(limits, sink)
        except TooLong:
            self.too_long = True
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
        if self.too_long:
            return
        if self.broken:
            raise console.Problem(f"{self.host.name}: {self.broken}", "look at what it does there")
        self.host.check(self.framed, self.remote)


class _Padded:
    """A file that gives exactly `size` bytes: one that shrinks while it is read ends in zeros."""

    def __init__(self, f, size: int):
        self.f, self.remaining = f, size

    def read(self, n: int) -> bytes:
        n = min(n, self.remaining)
        block = self.f.read(n)
        self.remaining -= n
        return block + bytes(n - len(block))


def framed_bytes(file: tuple[str, int]) -> int:
    """The most bytes of one file (its name and size) in a tar stream: headers and padding too."""
    name, size = file
    return size + 2 * len(os.fsencode(name)) + 8 * tarfile.BLOCKSIZE


class BoundedMember(tarfile.TarInfo):
    """A member whose name fits into memory: tarfile reads long names and other headers whole."""

    def _proc_member(self, archive):
        """Read on behind a header; ReadError, which ends the reading, where it has no bounds.

        Every Python comes here before it reads more; patched ones no longer ask `frombuf`.
        """
        if self.size < 0 or (not self.isreg() and self.size > HEADER_BYTES):
            raise tarfile.ReadError("a header without bounds")
        return super()._proc_member(archive)


def unpack(stream: IO[bytes], sizes: dict[str, int], target: Path) -> set[str]:
    """Take the files {name: bytes} out of a tar stream; the names of those that were larger.

    Whatever else it holds is passed over, and where it is no tar archive it ends.
    """
    larger = set()
    broken = (tarfile.TarError, EOFError, ValueError, OverflowError, UnicodeError, RecursionError)
    options = {"fileobj": stream, "mode": "r|", "tarinfo": BoundedMember}
    with contextlib.suppress(*broken), tarfile.open(**options) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in sizes and member.isreg() and member.size >= 0:
                if member.size > sizes[name]:
                    larger.add(name)
                _take(tar, member, target / name, sizes[name])
    return larger


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, most: int) -> None:
    part = target.with_name(f".{target.name[:200]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "wb") as out:
        write_at_most(tar.extractfile(member), out, most, lambda count: None)
    if part.stat().st_size == min(member.size, most):
        seconds = min(max(float(member.mtime), 0.0), LATEST)
        settle(part, target, int(seconds * 1e9), bool(member.mode & 0o100))
