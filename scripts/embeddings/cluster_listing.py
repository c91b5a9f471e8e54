"""What a cluster has: its shards, its producer's manifest, and whether it has rsync.

A small POSIX shell script prints the listing between two lines with a token of ours, so that what
a login prints is not part of it. Everything in it is bounded and checked: bytes, seconds of
silence, the form of every line, every name.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from embeddings.shards import MANIFEST
from kit import console

SILENCE_SECONDS = 60  # without a byte of the answer
LISTING_SECONDS = 600  # to its end: one that trickles is never silent
BANNER_BYTES = 64 << 10  # what a login may print before the listing
LISTING_BYTES = 16 << 20  # of the lines: some 200,000 shards
MANIFEST_BYTES = 16 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,200}")
FILE_LINE = re.compile(r"([0-9]{1,15}) (-?[0-9]{1,11}) (.+)")

PROBE = """LC_ALL=C; export LC_ALL
echo TOKEN
command -v rsync >/dev/null 2>&1 && echo rsync
if CDPATH= cd FOLDER >/dev/null 2>&1; then
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
class ShardFile:
    """A shard on the cluster: bytes, time in seconds; `link`: a symbolic link to it."""

    size: int
    mtime: int
    link: bool = False


@dataclass
class ClusterListing:
    """What a cluster has. `banner`: what its login printed first, which no rsync survives."""

    files: dict[str, ShardFile] = field(default_factory=dict)
    rsync: bool = False
    manifest: bytes | None = None
    no_folder: str = ""  # missing, or closed: not to be entered
    banner: str = ""


class BrokenListing(Exception):
    """The listing did not come to its end; the text is the last line that came instead."""


def script(folder: str, pattern: str, token: str) -> str:
    """The listing's shell script; `folder` and `pattern` are allow-listed, so nothing is quoted."""
    values = {"FOLDER": folder, "PATTERN": pattern, "MANIFEST": MANIFEST, "TOKEN": token}
    return re.sub("|".join(values), lambda match: values[match[0]], PROBE)


async def read(
    stream: asyncio.StreamReader, token: str, pattern: str, cluster: str
) -> ClusterListing:
    """The listing that the script printed, after whatever its login printed.

    BrokenListing where it broke off, TimeoutError where nothing comes for SILENCE_SECONDS or not
    all within LISTING_SECONDS, a Problem where a line is not one of ours: a name that does not
    match `pattern` was not asked for, and under it something else here would be replaced.
    """
    listing = ClusterListing()
    listing.banner = await _read_banner(stream, token, cluster)
    names: list[str] = []
    links: set[str] = set()
    length, began = 0, monotonic()
    while raw := await _line(stream):
        length += len(raw)
        if monotonic() - began > LISTING_SECONDS:
            raise asyncio.TimeoutError
        if length > LISTING_BYTES:
            raise console.Problem(f"{cluster}: its listing does not end", "look at what it runs")
        line = raw.decode("utf-8", "replace").rstrip("\n")
        kind, _, rest = line.partition(" ")
        if line == f"end {token}":
            check_names(names, pattern, cluster)
            for name in links & listing.files.keys():
                file = listing.files[name]
                listing.files[name] = ShardFile(file.size, file.mtime, link=True)
            return listing
        if kind == "rsync":
            listing.rsync = True
        elif kind == "nofolder":
            listing.no_folder = rest
        elif kind == "manifest" and listing.manifest is None and re.fullmatch("[0-9]+", rest):
            listing.manifest = await _read_manifest(stream, rest, cluster)
        elif kind == "link":
            links.add(rest)
        elif kind == "file" and (match := FILE_LINE.fullmatch(rest)):
            names.append(match[3])
            listing.files[match[3]] = ShardFile(int(match[1]), int(match[2]))
        elif line:
            raise console.Problem(
                f"{cluster}: its listing has the line {line[:80]!a}", "look at what it runs"
            )
    raise BrokenListing("its listing broke off")


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(stream.readline(), SILENCE_SECONDS)
    except ValueError:  # a line beyond the stream's limit
        raise BrokenListing("its listing has a line without end") from None


async def _read_banner(stream: asyncio.StreamReader, token: str, cluster: str) -> str:
    """The lines before the token."""
    banner: list[str] = []
    length = 0
    while raw := await _line(stream):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line == token:
            return "\n".join(banner)
        length += len(raw)
        if length > BANNER_BYTES:
            raise console.Problem(
                f"{cluster}: its login prints without end", "look at its shell's start files"
            )
        banner += [line] if line.strip() else []
    raise BrokenListing(banner[-1] if banner else "")


async def _read_manifest(stream: asyncio.StreamReader, digits: str, cluster: str) -> bytes:
    if len(digits) > 9 or int(digits) > MANIFEST_BYTES:
        raise console.Problem(
            f"{cluster}: its {MANIFEST} has {digits[:20]} bytes", "write it again"
        )
    try:
        return await asyncio.wait_for(stream.readexactly(int(digits)), SILENCE_SECONDS)
    except asyncio.IncompleteReadError:
        raise BrokenListing("its listing broke off") from None


def check_names(names: Iterable[str], pattern: str, cluster: str) -> None:
    """A Problem unless each name is plain, was asked for, and is another file on every disk."""
    seen: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name) or not fnmatch.fnmatchcase(name, pattern):
            raise console.Problem(
                f"{cluster}: its file {name[:80]!a} cannot be fetched safely", "rename it"
            )
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise console.Problem(
                f"{cluster}: its files {other} and {name} are one file on some disks",
                "rename one of them",
            )
