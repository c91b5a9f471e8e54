"""One ssh master per cluster: it lists the shards, and every transfer goes through it.

    async with Link(cluster, private, accept_new=False) as link:
        listing = await link.list()
        await link.fetch({"cluster1_gpu0.pkl": listing.files["cluster1_gpu0.pkl"]}, incoming)

The master runs a small POSIX shell script that prints the listing and then waits: when this process
ends in whatever way, its input ends, and so does the connection. Files come by rsync, at most
PARALLEL at once, or by `cat` where one of the two sides has no rsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import os
import re
import secrets
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings.credentials import Cluster
from embeddings.shards import MANIFEST
from kit import console
from transfer import host as transfer_host
from transfer import rsync as transfer_rsync

PARALLEL = 4  # more gains nothing: one connection's window is full
PROBE_SECONDS = 60
MAX_MANIFEST = 16 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]*")
HELPER = Path(__file__).with_name("askpass.py")
NO_FOLDER = (
    ("there is no folder", "say --remote-dir, or remote_dir in its credentials"),
    ("this user may not enter the folder", "ask for its permissions there"),
)

PROBE = """LC_ALL=C; export LC_ALL
echo TOKEN
command -v rsync >/dev/null 2>&1 && echo rsync
if cd FOLDER 2>/dev/null; then
  set --
  for f in PATTERN; do
    [ -f "$f" ] || continue
    set -- "$@" "$f"; [ -h "$f" ] && echo "link $f"
  done
  if [ $# -gt 0 ]; then
    stat -L -c 'file %s %Y %n' "$@" 2>/dev/null || stat -L -f 'file %z %m %N' "$@"
  fi
  if [ -f MANIFEST ]; then
    n=$(wc -c <MANIFEST); n=$((n)); echo "manifest $n"; head -c "$n" MANIFEST; echo
  fi
else
  [ -d FOLDER ] && echo nofolder closed || echo nofolder missing
fi
echo end TOKEN
"""


@dataclass(frozen=True)
class File:
    """A shard on the far side: bytes, time in seconds; `link`: a symbolic link to it."""

    size: int
    mtime: int
    link: bool = False


@dataclass
class Listing:
    """What the far side has: its shards, its producer's manifest, and rsync or not."""

    files: dict[str, File] = field(default_factory=dict)
    rsync: bool = False
    manifest: bytes | None = None
    no_folder: str = ""  # missing, or closed: not to be entered


class Down(console.Problem):
    """The cluster does not answer, or not as one. `stderr`: what ssh said."""

    stderr = ""


def config(cluster: Cluster, socket: Path, accept_new: bool) -> str:
    """The ssh configuration for one cluster: our settings first (ssh takes the first value)."""
    own = []
    if cluster.address:
        own = [f"Host {cluster.name}", f"HostName {cluster.address}", f"User {cluster.username}",
               f"Port {cluster.port}"]  # fmt: skip
        if cluster.key_file:
            key = str(cluster.key_file).replace("%", "%%")
            own += [f'IdentityFile "{key}"', "IdentitiesOnly yes"]
        if cluster.secret:
            own += ["PreferredAuthentications password,keyboard-interactive"]
            own += ["PubkeyAuthentication no", "BatchMode no"]
    common = transfer_host.ssh_config(socket.parent, accept_new, password=False).splitlines()
    dropped = ("ControlMaster", "ControlPath", "ControlPersist")
    shared = [line for line in common if not line.startswith(dropped)]
    ours = ["Host *", "ControlMaster no", f"ControlPath {socket}", "ForwardAgent no",
            "ForwardX11 no", "ClearAllForwardings yes"]  # fmt: skip
    return "\n".join([*own, *ours, *shared, ""])


def script(folder: str, pattern: str, token: str) -> str:
    """The listing's shell script; `folder` and `pattern` are allow-listed, so nothing is quoted."""
    values = {"FOLDER": folder, "PATTERN": pattern, "MANIFEST": MANIFEST, "TOKEN": token}
    return re.sub("|".join(values), lambda found: values[found[0]], PROBE)


async def parse(stream: asyncio.StreamReader, token: str, pattern: str) -> Listing | str:
    """The listing that the script printed after whatever a login prints.

    If it broke off: the last line that came before it. A name that does not match `pattern` was
    not asked for: under it, something else here would be replaced.
    """
    listing, begun, said, links = Listing(), False, "", set()
    while raw := await stream.readline():
        line = raw.decode("utf-8", "replace").rstrip("\n")
        kind, _, rest = line.partition(" ")
        if line == token:
            begun = True
        elif not begun:
            said = line or said
        elif line == f"end {token}":
            return listing
        elif kind == "rsync":
            listing.rsync = True
        elif kind == "nofolder":
            listing.no_folder = rest
        elif kind == "manifest":
            length = int(rest)
            if length > MAX_MANIFEST:
                raise console.Problem(f"its {MANIFEST} has {length} bytes", "write it again")
            listing.manifest = await stream.readexactly(length)
        elif kind == "link":
            links.add(rest)
        elif kind == "file":
            size, mtime, name = rest.split(" ", 2)
            if not NAME.fullmatch(name) or not fnmatch.fnmatchcase(name, pattern):
                raise console.Problem(
                    f"its file {name[:80]!a} cannot be fetched safely", "rename it"
                )
            listing.files[name] = File(int(size), int(mtime), name in links)
    return said


class Link:
    """The connection to one cluster. `private`: a folder only we can read, with a short path."""

    def __init__(self, cluster: Cluster, private: Path, pattern: str, accept_new: bool):
        self.cluster, self.pattern = cluster, pattern
        self.number = secrets.token_hex(3)
        self.socket = private / f"s{self.number}"
        self.config = private / f"c{self.number}"
        self.config.write_text(config(cluster, self.socket, accept_new), encoding="utf-8")
        self.env = dict(os.environ) | {"LC_ALL": "C"}
        if cluster.secret:
            self.offer_password(private)
        self.master: asyncio.subprocess.Process | None = None
        self.lock = asyncio.Lock()
        self.rsync_there = False
        self.pass_fds: tuple[int, ...] = ()

    def offer_password(self, private: Path) -> None:
        """Let ssh ask our helper, which reads the 0600 file: argv has only that file's name."""
        helper = private / f"p{self.number}"
        words = map(
            shlex.quote, (sys.executable, "-I", "-S", str(HELPER), str(self.cluster.secret))
        )
        helper.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$1"\n', encoding="utf-8")
        helper.chmod(0o700)
        self.env |= {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force"}
        self.env.setdefault("DISPLAY", ":0")

    def ssh(self, *options: str) -> list[str]:
        return ["ssh", "-F", str(self.config), *options, self.cluster.name]

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.end_master()

    # The master

    async def list(self) -> Listing:
        """The shards and the manifest there; connects if there is no connection yet."""
        async with self.lock:
            if self.master is None:
                return await self.connect()
            return await self.ask(self.ssh())

    async def alive(self) -> None:
        """Connect again if the connection is gone."""
        async with self.lock:
            code, _ = await self.run(self.ssh("-O", "check"))
            if code:
                await self.connect()

    async def connect(self) -> Listing:
        """Start the master, which brings the listing with it. Two tries."""
        for attempt in (1, 2):
            await self.end_master()
            self.socket.unlink(missing_ok=True)
            try:
                return await self.ask(self.ssh("-o", "ControlMaster=yes"), master=True)
            except Down as down:
                if attempt == 2 or transfer_host.FINAL.search(down.stderr):
                    raise
            await asyncio.sleep(transfer_rsync.wait_before(attempt))
        raise AssertionError

    async def ask(self, command: list[str], master: bool = False) -> Listing:
        """Run the listing's script there. A master then waits for the end of its input."""
        token, pipe = secrets.token_hex(8), asyncio.subprocess.PIPE
        with open(self.config.with_name(f"e{secrets.token_hex(4)}"), "w+b") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, "sh", stdin=pipe, stdout=pipe, stderr=errors, env=self.env
            )
            try:
                text = script(self.cluster.remote_dir, self.pattern, token)
                with contextlib.suppress(ConnectionError):
                    process.stdin.write((text + "exec cat >/dev/null\n").encode())
                    await process.stdin.drain()
                listing = await asyncio.wait_for(
                    parse(process.stdout, token, self.pattern), PROBE_SECONDS
                )
            except (ValueError, asyncio.IncompleteReadError):
                listing = "its listing broke off"
            except asyncio.TimeoutError:
                raise Down(f"{self.cluster.name}: it lets us in and then says nothing",
                           f"try: ssh {self.cluster.name} true") from None  # fmt: skip
            finally:
                if master:
                    self.master = process
                else:
                    await end(process)
            if isinstance(listing, str):
                await end(process)
                errors.seek(0)
                raise self.down(errors.read().decode(errors="replace") or listing)
        if listing.no_folder:
            what, remedy = NO_FOLDER[listing.no_folder == "closed"]
            raise console.Problem(f"{self.cluster.name}: {what} {self.cluster.remote_dir}", remedy)
        self.rsync_there = listing.rsync
        return listing

    async def end_master(self) -> None:
        master, self.master = self.master, None
        if master:
            await end(master)

    def down(self, stderr: str) -> Down:
        """What ssh's last words mean, in one line with a remedy."""
        name = self.cluster.name
        said = last_line(stderr)
        for pattern, what, remedy in transfer_host.REFUSALS:
            if re.search(pattern, stderr):
                if pattern == "Permission denied" and self.cluster.address:
                    remedy = f"check username and password or key_file in {name}.credentials"
                what = what.replace("TIMEOUT", transfer_host.timeout())
                problem = Down(f"{name}: {what} ({said})", remedy.replace("NAME", name))
                break
        else:
            problem = Down(f"{name}: no connection ({said})", f"try: ssh {name} true")
        problem.stderr = stderr
        return problem

    # Transfers

    async def fetch(self, files: dict[str, File], into: Path) -> None:
        """Bring `files` into the folder `into`, each under its name once it is whole."""
        tool = self.local_rsync() if self.rsync_there else None
        by_rsync = {n: f for n, f in files.items() if tool and not f.link}
        lists = shares(by_rsync, PARALLEL)
        await every([self.by_rsync(tool, names, into) for names in lists])
        gate = asyncio.Semaphore(PARALLEL)
        rest = {n: f for n, f in files.items() if n not in by_rsync}
        await every([self.by_cat(name, file, into, gate) for name, file in rest.items()])

    def local_rsync(self) -> str | None:
        try:
            return transfer_rsync.find()[0]
        except console.Problem:
            return None

    async def by_rsync(self, tool: str, names: list[str], into: Path) -> None:
        """One rsync for several files. What it had of an interrupted one it goes on with."""
        listed = self.config.with_name(f"l{secrets.token_hex(4)}")
        listed.write_bytes(b"".join(n.encode() + b"\0" for n in names))
        command = [tool, *transfer_rsync.COMMON, f"--files-from={listed}",
                   "-e", f"ssh -F '{self.config}'",
                   f"{self.cluster.name}:{self.cluster.remote_dir}/", f"{into}/"]  # fmt: skip
        await self.persist(lambda: self.run(command), into)

    async def by_cat(self, name: str, file: File, into: Path, gate: asyncio.Semaphore) -> None:
        """One file through `tail -c`, from where an interrupted run of the same file stopped."""
        part = into / f"{name}.{file.size}-{file.mtime}.part"
        async with gate:
            begin = self.take_over(part, file.size)

            async def once() -> tuple[int, str]:
                with open(part, "ab") as out:
                    at = out.tell() + 1
                    command = f"cd {self.cluster.remote_dir} && tail -c +{at} {name}"
                    return await self.run([*self.ssh(), command], out)

            await self.persist(once, into)
            if part.stat().st_size != file.size:
                part.unlink()
                raise console.Problem(
                    f"{self.cluster.name}: {name} is still being written, or was cut short",
                    "fetch again when its producer has ended",
                )
            if begin and not await self.same_there(name, part):
                part.unlink()
                raise console.Problem(f"{self.cluster.name}: {name} could not be resumed: its "
                                      "first part differs", "fetch again")  # fmt: skip
            os.utime(part, (file.mtime, file.mtime))
            os.replace(part, into / name)

    def take_over(self, part: Path, size: int) -> int:
        """Bytes that are here already, in a file of its own: a killed run's cat may still write."""
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
        """Whether a resumed file has the far side's SHA-256 (true where nothing there can tell)."""
        from kit import publish

        command = f"cd {self.cluster.remote_dir} && (sha256sum {name} || shasum -a 256 {name})"
        with open(self.config.with_name(f"h{secrets.token_hex(4)}"), "w+b") as out:
            code, _ = await self.run([*self.ssh(), command], out)
            out.seek(0)
            told = out.read(64).decode("ascii", "replace")
        return code != 0 or told == await asyncio.to_thread(publish.sha256, part)

    async def persist(self, once: Any, into: Path) -> None:
        """Run `once` until it succeeds: again after a lost connection, five times."""
        tries, once_more = 0, True
        while True:
            code, stderr = await once()
            if code == 0:
                return
            tries += 1
            network = code in transfer_rsync.NETWORK
            final = network and transfer_host.FINAL.search(stderr)
            if code == 11 or "No space left on device" in stderr:
                raise console.Problem(f"{into}: no space left", "free space on that disk")
            if code in transfer_rsync.SOME_FILES and once_more:
                once_more = False
            elif network and tries <= transfer_rsync.TRIES and not final:
                pause = transfer_rsync.wait_before(tries)
                console.warn(
                    f"{self.cluster.name}: connection lost ({last_line(stderr)}); again in "
                    f"{pause:.0f} s, try {tries} of {transfer_rsync.TRIES}"
                )
                await asyncio.sleep(pause)
                await self.alive()
            elif network:
                raise self.down(stderr)
            elif "Permission denied" in stderr:
                raise console.Problem(
                    f"{self.cluster.name}: not readable there ({last_line(stderr)})",
                    "let this user read it: chmod a+r",
                )
            else:
                raise console.Problem(
                    f"{self.cluster.name}: the transfer ended with {code} ({last_line(stderr)})",
                    "run the same command again: it goes on where it stopped",
                )

    async def run(self, command: list[str], stdout: Any = asyncio.subprocess.DEVNULL):
        """(exit code, stderr) of a command; ended when this task is."""
        errors = self.config.with_name(f"x{secrets.token_hex(4)}")
        with open(errors, "w+b") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env=self.env, pass_fds=self.pass_fds,
            )  # fmt: skip
            try:
                code = await process.wait()
            finally:
                await end(process)
            stderr.seek(0)
            said = stderr.read().decode(errors="replace")
        errors.unlink()
        return (255 if code < 0 else code), said


async def every(tasks: list[Any]) -> None:
    """Await all to their end, then raise the first of their exceptions."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that is still running, gently at first."""
    if process.stdin:
        process.stdin.close()
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                stop()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), 5)


def shares(files: dict[str, File], n: int) -> list[list[str]]:
    """The names in up to `n` lists of about the same number of bytes."""
    lists: list[tuple[int, list[str]]] = [(0, []) for _ in range(min(n, len(files)))]
    for name in sorted(files, key=lambda name: -files[name].size):
        size, names = min(lists, key=lambda one: one[0])
        lists.remove((size, names))
        lists.append((size + files[name].size, [*names, name]))
    return [names for _, names in lists]


def last_line(stderr: str) -> str:
    """The last line that says something, without what would move a terminal's cursor."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip(" @\t")]
    return "".join(filter(str.isprintable, lines[-1])) if lines else "it said nothing"
