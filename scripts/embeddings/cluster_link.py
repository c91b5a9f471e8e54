"""One ssh master per cluster: it lists the shards, and every transfer goes through it.

    async with ClusterLink(cluster, private, pattern, accept_new=False) as link:
        listing = await link.list()
        await link.fetch({"cluster1_gpu0.pkl": listing.files["cluster1_gpu0.pkl"]}, incoming)

The master runs the listing's script and then waits: when this process ends in whatever way, its
input ends, and so does the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from embeddings import child_processes, cluster_listing, cluster_ssh
from embeddings.cluster_listing import BrokenListing, ClusterListing, ShardFile
from embeddings.cluster_ssh import ClusterDown
from embeddings.cluster_transfer import ClusterTransfer
from embeddings.credentials import Cluster
from kit import console
from transfer.refusals import START_FILE
from transfer.retries import wait_before

NO_FOLDER = {
    "closed": ("this user may not enter the folder", "ask for its permissions there"),
    "missing": ("there is no folder", "say --remote-dir, or remote_dir in its credentials"),
}


class ClusterLink:
    """The connection to one cluster. `private`: a folder only we can read, with a short path."""

    def __init__(self, cluster: Cluster, private: Path, pattern: str, accept_new: bool):
        self.cluster, self.pattern = cluster, pattern
        number = secrets.token_hex(3)
        self.socket = private / f"s{number}"
        self.config = private / f"c{number}"
        self.config.write_text(
            cluster_ssh.config(cluster, self.socket, accept_new), encoding="utf-8"
        )
        self.env = dict(os.environ) | {"LC_ALL": "C"}
        if cluster.secret:
            self.env |= cluster_ssh.offer_password(cluster, private / f"p{number}")
        self.master: asyncio.subprocess.Process | None = None
        self.master_errors: child_processes.ErrorTail | None = None
        self.lock = asyncio.Lock()
        self.rsync_there, self.noisy = False, False
        self.pass_fds: tuple[int, ...] = ()

    def ssh(self, *options: str) -> list[str]:
        """An ssh command for this cluster, without what runs there."""
        return ["ssh", "-F", str(self.config), *options, self.cluster.name]

    async def __aenter__(self) -> ClusterLink:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.end_master()

    async def list(self) -> ClusterListing:
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

    async def connect(self) -> ClusterListing:
        """Start the master, which brings the listing with it. Two tries."""
        for attempt in (1, 2):
            await self.end_master()
            self.socket.unlink(missing_ok=True)
            try:
                return await self.ask(self.ssh("-o", "ControlMaster=yes"), master=True)
            except ClusterDown as problem:
                if attempt == 2 or problem.final:
                    raise
            await asyncio.sleep(wait_before(attempt))
        raise AssertionError

    async def ask(self, command: list[str], master: bool = False) -> ClusterListing:
        """Run the listing's script there. A master then waits for the end of its input."""
        token, pipe = secrets.token_hex(8), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, "sh", stdin=pipe, stdout=pipe, stderr=pipe, env=self.env
        )
        errors = child_processes.ErrorTail(process)
        kept = False
        try:
            text = cluster_listing.script(self.cluster.remote_dir, self.pattern, token)
            with contextlib.suppress(ConnectionError):
                process.stdin.write((text + "exec cat >/dev/null\n").encode())
                await process.stdin.drain()
            listing = await cluster_listing.read(
                process.stdout, token, self.pattern, self.cluster.name
            )
            kept = master
        except BrokenListing as broken:
            await child_processes.end(process)
            raise cluster_ssh.down(self.cluster, await errors.text() or str(broken)) from None
        except asyncio.TimeoutError:
            raise ClusterDown(
                f"{self.cluster.name}: logged in, but no listing within "
                f"{cluster_listing.SILENCE_SECONDS} s, or no end of it within "
                f"{cluster_listing.LISTING_SECONDS} s",
                f"try: ssh {self.cluster.name} true",
            ) from None
        finally:
            if kept:
                self.master, self.master_errors = process, errors
            else:
                await child_processes.end(process)
                errors.close()
        return self.checked(listing)

    def checked(self, listing: ClusterListing) -> ClusterListing:
        """The listing, unless the folder is missing; what it tells of the login is noted."""
        if listing.no_folder:
            what, remedy = NO_FOLDER.get(listing.no_folder, NO_FOLDER["missing"])
            raise console.Problem(f"{self.cluster.name}: {what} {self.cluster.remote_dir}", remedy)
        self.rsync_there = listing.rsync
        if listing.banner and listing.rsync and not self.noisy:
            self.noisy = True
            first = listing.banner.splitlines()[0][:80]
            console.warn(
                f"{self.cluster.name}: its login prints text ({first}), which rsync cannot take: "
                f"fetching without rsync, more slowly; {START_FILE}"
            )
        return listing

    async def end_master(self) -> None:
        """End the shared connection, if there is one."""
        master, self.master = self.master, None
        if master:
            await child_processes.end(master)
            self.master_errors.close()

    async def fetch(self, files: dict[str, ShardFile], into: Path) -> None:
        """Bring `files` into the folder `into`, each under its name once it is whole."""
        await ClusterTransfer(self).fetch(files, into)

    async def run(self, command: list[str], **options: Any) -> tuple[int, str]:
        """(exit code, end of stderr) of a command that uses this connection."""
        return await child_processes.run(command, env=self.env, pass_fds=self.pass_fds, **options)
