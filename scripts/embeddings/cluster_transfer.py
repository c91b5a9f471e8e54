"""Shards through a cluster's connection: by rsync, or by `tail` where rsync cannot be used.

At most PARALLEL transfers run at once. A lost connection is taken up again, five times. Never
more bytes are taken than were listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from embeddings import child_processes, cluster_ssh
from embeddings.cluster_listing import BANNER_BYTES, SILENCE_SECONDS, ShardFile
from kit import console, publish
from transfer.refusals import NETWORK, START_FILE, is_final, is_noisy
from transfer.retries import TRIES, wait_before
from transfer.rsync_carrier import SOME_FILES

PARALLEL = 4  # more gains nothing: one connection's window is full


class FramedFile:
    """Takes one file's bytes out of an answer: at most `remaining` after our token."""

    def __init__(self, out: Any, token: str, remaining: int):
        self.out, self.mark, self.remaining = out, f"{token}\n".encode(), remaining
        self.banner, self.begun, self.too_long = b"", False, False

    def take(self, chunk: bytes) -> bool:
        """Write what belongs to the file; False where more came than was listed."""
        if not self.begun:
            self.banner += chunk
            before, self.begun, chunk = self._split()
            if not self.begun:
                return len(before) <= BANNER_BYTES
        self.too_long = len(chunk) > self.remaining
        self.out.write(chunk[: self.remaining])
        self.remaining -= len(chunk[: self.remaining])
        return not self.too_long

    def _split(self) -> tuple[bytes, bool, bytes]:
        before, mark, after = self.banner.partition(self.mark)
        return before, bool(mark), after


class ClusterTransfer:
    """The transfers of one cluster. `link`: its ClusterLink."""

    def __init__(self, link: Any):
        self.link, self.cluster = link, link.cluster

    async def fetch(self, files: dict[str, ShardFile], into: Path) -> None:
        """Bring `files` into the folder `into`, each under its name once it is whole."""
        usable = self.link.rsync_there and not self.link.noisy
        tool = cluster_ssh.local_rsync() if usable else None
        by_rsync = {n: f for n, f in files.items() if tool and not f.link}
        lists = shares(by_rsync, PARALLEL)
        await child_processes.every([self.by_rsync(tool, names, into) for names in lists])
        gate = asyncio.Semaphore(PARALLEL)
        rest = {n: f for n, f in files.items() if n not in by_rsync}
        await child_processes.every([self.by_tail(n, f, into, gate) for n, f in rest.items()])

    async def by_rsync(self, tool: str, names: list[str], into: Path) -> None:
        """One rsync for several files. It continues with what it had of an interrupted one."""
        listed = self.link.config.with_name(f"l{secrets.token_hex(4)}")
        listed.write_bytes(b"".join(n.encode() + b"\0" for n in names))
        source = f"{self.cluster.name}:{self.cluster.remote_dir}/"
        command = cluster_ssh.rsync_command(tool, self.link.config, listed, source, into)
        await self.persist(lambda: self.link.run(command), into)

    async def by_tail(
        self, name: str, file: ShardFile, into: Path, gate: asyncio.Semaphore
    ) -> None:
        """One file through `tail -c`, from where an interrupted run of the same file stopped."""
        part = into / f"{name}.{file.size}-{file.mtime}.part"
        async with gate:
            begin = self.take_over(part, file.size)
            await self.persist(lambda: self.tail_once(name, file, part), into)
            if part.stat().st_size != file.size:
                part.unlink()
                raise self.unfinished(name)
            if begin and not await self.same_there(name, part):
                part.unlink()
                raise console.Problem(
                    f"{self.cluster.name}: {name} could not be resumed: its first part differs",
                    "fetch again",
                )
            os.utime(part, (file.mtime, file.mtime))
            os.replace(part, into / name)

    async def tail_once(self, name: str, file: ShardFile, part: Path) -> tuple[int, str]:
        """Append the rest of the file to `part`: (exit code, stderr)."""
        token = secrets.token_hex(8)
        with open(part, "ab") as out:
            at = out.tell()
            frame = FramedFile(out, token, file.size - at)
            command = f"cd {self.cluster.remote_dir} && echo {token} && tail -c +{at + 1} {name}"
            try:
                code, stderr = await self.link.run(
                    [*self.link.ssh(), command], take=frame.take, silence=SILENCE_SECONDS
                )
            except child_processes.Silent:
                return 255, f"no byte within {SILENCE_SECONDS} s"
        if frame.too_long:
            part.unlink()
            raise self.unfinished(name)
        if code == 0 and not frame.begun:
            return 255, "its answer did not begin"
        return code, stderr

    def unfinished(self, name: str) -> console.Problem:
        return console.Problem(
            f"{self.cluster.name}: {name} is still being written, or was cut short",
            "fetch again when its producer has ended",
        )

    def take_over(self, part: Path, size: int) -> int:
        """Copy an earlier run's bytes to a new file: a killed ssh may still write the old one."""
        old = part.with_suffix(".old")
        with contextlib.suppress(FileNotFoundError):
            os.replace(part, old)
            if old.stat().st_size <= size:
                try:
                    shutil.copyfile(old, part)
                except OSError:  # no room for it twice
                    part.unlink(missing_ok=True)
            old.unlink()
        return part.stat().st_size if part.exists() else 0

    async def same_there(self, name: str, part: Path) -> bool:
        """Whether a resumed file has the SHA-256 it has there (true where no tool there tells)."""
        token = secrets.token_hex(8)
        command = (
            f"cd {self.cluster.remote_dir} && echo {token} && "
            f"(sha256sum {name} || shasum -a 256 {name})"
        )
        answer = bytearray()

        def take(chunk: bytes) -> bool:
            answer.extend(chunk)
            return len(answer) <= 2 * BANNER_BYTES

        try:
            code, _ = await self.link.run(
                [*self.link.ssh(), command], take=take, silence=10 * SILENCE_SECONDS
            )
        except child_processes.Silent:
            return True
        digest = bytes(answer).partition(f"{token}\n".encode())[2][:64]
        return code != 0 or digest.decode("ascii", "replace") == await asyncio.to_thread(
            publish.sha256, part
        )

    async def persist(self, once: Callable[[], Awaitable[tuple[int, str]]], into: Path) -> None:
        """Run `once` until it succeeds: again after a lost connection, five times."""
        tries, once_more = 0, True
        while True:
            code, stderr = await once()
            if code == 0:
                return
            tries += 1
            network = code in NETWORK
            retry = network and tries <= TRIES and not is_final(stderr)
            if code == 11 or "No space left on device" in stderr:
                raise console.Problem(f"{into}: no space left", "free space on that disk")
            if code in SOME_FILES and once_more:
                once_more = False
            elif retry:
                await self.wait(tries, stderr)
            else:
                raise self.failed(code, stderr)

    async def wait(self, tries: int, stderr: str) -> None:
        """Say why, wait, and connect again if the connection is gone."""
        pause = wait_before(tries)
        console.warn(
            f"{self.cluster.name}: connection lost ({cluster_ssh.last_line(stderr)}); again in "
            f"{pause:.0f} s, try {tries} of {TRIES}"
        )
        await asyncio.sleep(pause)
        await self.link.alive()

    def failed(self, code: int, stderr: str) -> console.Problem:
        """What the last try of a transfer said, as one line with its remedy."""
        name, last = self.cluster.name, cluster_ssh.last_line(stderr)
        if is_noisy(stderr):
            return console.Problem(
                f"{name}: its login prints text, so rsync cannot work", START_FILE
            )
        if code in NETWORK:
            return cluster_ssh.down(self.cluster, stderr)
        if "Permission denied" in stderr:
            return console.Problem(
                f"{name}: not readable there ({last})", "let this user read it: chmod a+r"
            )
        return console.Problem(
            f"{name}: the transfer ended with {code} ({last})",
            "run the same command again: it goes on where it stopped",
        )


def shares(files: dict[str, ShardFile], n: int) -> list[list[str]]:
    """The names in up to `n` lists of about the same number of bytes."""
    lists: list[tuple[int, list[str]]] = [(0, []) for _ in range(min(n, len(files)))]
    for name in sorted(files, key=lambda name: -files[name].size):
        size, names = min(lists, key=lambda one: one[0])
        lists.remove((size, names))
        lists.append((size + files[name].size, [*names, name]))
    return [names for _, names in lists]
