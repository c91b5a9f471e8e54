"""How files get to a host and back: rsync, a plain copy (a folder), tar over ssh (no rsync).

All three, and rclone for a bucket (rclone_carrier.py), have `send` and `fetch` of one shape. They
only move bytes into staging folders: what arrived is hashed on both sides afterwards, whichever of
them brought it. `fetch` writes no more of a file than was listed, and returns the names of those
that were larger.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from checks import rsync_tool
from kit import console
from transfer import refusals
from transfer.host import FolderHost, Host
from transfer.listing import HostState
from transfer.progress_line import ProgressLine
from transfer.received_files import settle, write_at_most
from transfer.rsync_carrier import NO_RSYNC, RsyncCarrier


class Carrier(Protocol):
    """What every carrier has. `resumes_inside_files`: an old version there saves bytes."""

    resumes_inside_files: bool

    def send(self, names: list[str], source: Path, below: str, total: int) -> None:
        """Copy `names` (`total` bytes) from `source` here into the folder `below` there."""

    def fetch(self, sizes: dict[str, int], below: str, target: Path, growth: int) -> set[str]:
        """Copy the files {name: bytes} from the folder `below` there into `target` here.

        Returns the names of those that are larger there; no more than `growth` bytes too many come.
        """


def carrier_for(host: Host, state: HostState) -> Carrier:
    """The carrier that both sides have; a note says why it is a slower one."""
    if host.is_bucket:
        from transfer.rclone_carrier import RcloneCarrier

        return RcloneCarrier(host)
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
        printed = refusals.last_line(host.banner.decode(errors="replace"))[:80]
        why, remedy = f"its login prints something ({printed})", refusals.START_FILE
    elif tool:
        why, remedy = "it has no rsync", NO_RSYNC
    else:
        why, remedy = "no rsync on this machine", f"install it: {rsync_tool.INSTALL}"
    console.note(
        f"slower    {host.name}: {why}, so files go by tar, one whole file at a time; {remedy}"
    )
    from transfer.tar_carrier import TarCarrier

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

    def fetch(self, sizes: dict[str, int], below: str, target: Path, growth: int) -> set[str]:
        """Copy the files {name: bytes} from the folder `below` in the kit there into `target`."""
        larger = set()
        with ProgressLine(sum(sizes.values())) as line:
            for name, size in sizes.items():
                source = self._there(below) / name
                try:
                    if copy_whole(source, target / name, line.add, size):
                        larger.add(name)
                except FileNotFoundError:
                    continue  # the comparison tells
                except PermissionError as error:
                    if error.filename != str(source):  # here, not there
                        raise
                    self.cause = f" ({source}: permission denied)"
        return larger


def copy_whole(
    source: Path, target: Path, count: Callable[[int], object], most: int | None = None
) -> bool:
    """A copy with its time and executable bit that appears at `target` when it is whole.

    Nothing where an earlier copy of the same file is there already. Only regular files. No more
    than `most` bytes; returns whether there are more.
    """
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as f:
        facts = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            old = os.stat(target, follow_symlinks=False)
            known = (old.st_size, old.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
            if known and (most is None or old.st_size <= most):
                count(facts.st_size)
                return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name[:200]}.part")
        with open(part, "wb") as out:
            more = write_at_most(f, out, most, count)
    settle(part, target, facts.st_mtime_ns, bool(facts.st_mode & 0o100))
    return more
