"""Listings: what a host says it has, read and checked in one place, and hashes that it computed.

A signature is size, mtime, ctime, inode and the mode as one string. Every write through a file
system changes the ctime, and no program can set it back: a file whose signature is still the one
recorded when its SHA-256 was last compared is the same file. Damage below the file system (a
failing disk) does not change it; `--verify` reads everything again.

A host is not trusted with paths: one that is absolute, holds `..` or a control character, lies
outside what was asked for, or means the same file as another on a Mac's disk is refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from kit import console
from transfer import host_shell
from transfer.frame import AnswerLimits, patience
from transfer.host import Host, quote

LISTING_BYTES = 256 << 20  # about 1.5 million files
MOST_FOLDERS = 100_000  # of a pull: 512 in each path of a long listing would fill the memory
HASH_SPEED = 20 << 20  # bytes a second of the slowest disk that a hash waits for
# A path of ordinary names needs no second look.
_ORDINARY = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+=@ -]*/)*[A-Za-z0-9_][A-Za-z0-9._+=@-]*")
_TIME = re.compile(rb"-?\d{1,20}(?:\.\d{0,12})?")
_ERROR = re.compile(r"\w+: (?:cannot \w+ )?[‘'`]?(?:\./)?(.+?)[’']?: ([A-Za-z][^:]*)")
# Letters that HFS+ passes over when it compares names (Apple's TN1150).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_UNUSABLE = ("Cc", "Cs", "Zl", "Zp")  # control, not UTF-8, line and paragraph separators
_HARMLESS = (
    "No such file",
    "loop detected",
    "Too many levels",
    "part of the same file system loop",
)


UNKNOWN_TIME = -1


class ListedFile(NamedTuple):
    """A regular file on one side. `seconds`: mtime, whole, or UNKNOWN_TIME; `sig`: its
    signature."""

    size: int
    seconds: int
    executable: bool
    sig: str


class Listing:
    """What a host listed. `unread`: {path: why} of what could not be read or may not be used."""

    def __init__(self):
        self.files: dict[str, ListedFile] = {}
        self.unread: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.records: dict[bytes, tuple[str, ListedFile]] = {}  # what `files` was read from


class HostState:
    """What a probe found: `facts` by name and the listing, taken apart when it is asked for.

    `digest` stands for the whole listing: while it is the same, so is every signature in it.
    """

    def __init__(
        self,
        host: Host,
        output: bytes,
        below: tuple[str, ...] = (),
        known: dict[bytes, tuple[str, ListedFile]] | None = None,
    ):
        self.host, self.below, self.known = host, below, known
        head, separator, self.text = output.partition(b"\n\n")
        if not separator:
            raise _unreadable(host, output[:80])
        self.facts = read_facts(host, head)
        self.digest = hashlib.sha256(self.text).hexdigest()
        self._listing: Listing | None = None

    def listing(self) -> Listing:
        """The files there; reading costs 5 ms for 1,000 of them."""
        if self._listing is None:
            self._listing = read_listing(self.host, self.text, self.below, self.known)
        return self._listing

    @property
    def was_read(self) -> bool:
        """Whether `listing` was asked for."""
        return self._listing is not None


NUMBERS = ("free", "inodes", "now")


def read_facts(host: Host, head: bytes) -> dict[str, str]:
    """{name: value} of `name value` lines; numbers are digits, an empty value is 'unknown'."""
    facts = {}
    for line in head.decode(errors="replace").split("\n"):
        name, _, value = line.partition(" ")
        if not re.fullmatch(r"[a-z][a-z0-9_.-]*", name) or len(value) > 4096:
            raise _unreadable(host, line.encode(errors="replace"))
        if name in NUMBERS and value and not re.fullmatch(r"\d{1,18}", value):
            value = ""
        facts[name] = value
    return facts


def read_listing(
    host: Host,
    output: bytes,
    below: tuple[str, ...] = (),
    known: dict[bytes, tuple[str, ListedFile]] | None = None,
) -> Listing:
    """The Listing that list_files printed; a Problem where it is none.

    `below`: the folders that were asked for, () for anything in the kit's folder. Paths that may
    not be used are in `refused`, with the reason. `known`: the records of an earlier listing, which
    are not read again where names are not compared with each other (no `below`).
    """
    kind, _, body = output.partition(b"\n")
    if kind == b"none":
        raise console.Problem(f"{host.name}: find is missing there", "install findutils there")
    if kind not in (b"nul", b"lines"):
        raise _unreadable(host, output[:80])
    listing, names = Listing(), NameCheck(below)
    known = known if known and not below else {}
    for record in body.split(b"\0" if kind == b"nul" else b"\n"):
        if same := known.get(record):
            listing.files[same[0]] = same[1]
            listing.records[record] = same
            continue
        fields = record.split(b" ", 5)
        if len(fields) == 6 and _is_record(fields):
            path = os.fsdecode(fields[5].removeprefix(b"./"))
            if why := names.why_refused(path):
                listing.refused[path] = why
                continue
            listing.files[path] = _listed(b" ".join(fields[:5]).decode())
            listing.records[record] = path, listing.files[path]
        elif record.startswith(b"error "):
            _read_error(host, record[6:].decode(errors="replace"), listing)
        elif record.strip():
            if kind == b"nul":
                raise _unreadable(host, record)
            shown = record.decode(errors="replace")[:80]
            listing.refused[shown] = "is not a record of a file (a line break in a name?)"
    return listing


def _listed(sig: str) -> ListedFile:
    mode, _, size, mtime, _ = sig.split(" ")
    return ListedFile(int(size), int(mtime.partition(".")[0]), bool(int(mode, 8) & 0o100), sig)


def records_of(signatures: Iterable[tuple[str, str]]) -> dict[bytes, tuple[str, ListedFile]]:
    """(path, signature there) of an earlier listing as the records that it was read from.

    What a sync wrote down is read while the host answers: its listing is mostly the same records.
    """
    records = {}
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # written by no sync
        for path, sig in signatures:
            records[os.fsencode(f"{sig} ./{path}")] = path, _listed(sig)
    return records


def _is_record(fields: list[bytes]) -> bool:
    mode, inode, size, mtime, ctime, path = fields
    return (
        mode.isdigit() and len(mode) <= 6 and not mode.strip(b"01234567")
        and inode.isdigit() and len(inode) <= 20
        and size.isdigit() and len(size) <= 18
        and _TIME.fullmatch(mtime) is not None and _TIME.fullmatch(ctime) is not None
        and bool(path)
    )  # fmt: skip


def _read_error(host: Host, text: str, listing: Listing) -> None:
    """One line that find wrote to stderr: what it could not read is not empty."""
    if any(harmless in text for harmless in _HARMLESS):
        return
    if match := _ERROR.fullmatch(text.strip()):
        listing.unread[match[1]] = match[2].lower()
    else:
        raise console.Problem(
            f"{host.name}: the listing there failed ({text.strip()[:200]})", "repair that there"
        )


def _unreadable(host: Host, answer: bytes) -> console.Problem:
    return console.Problem(
        f"{host.name}: its answer is not one that a sync understands: "
        f"{answer.decode(errors='replace')[:80]!r}",
        f"look at what find, stat and printf do there: ssh {host.name}",
    )


class NameCheck:
    """Judges the paths of one listing, in its order: each alone, and against those before it."""

    def __init__(self, below: tuple[str, ...] = ()):
        self.below = below
        self._spelled: dict[str, str] = {}  # folded path of a file or folder -> as it was written
        self._folders: set[str] = set()
        self._files: set[str] = set()
        self._looked_at = 0  # folders that were new, each held as a whole path

    def why_refused(self, path: str) -> str:
        """Why `path` may not be used, or ''."""
        return why_unsafe(path, self.below) or (self._clash(path) if self.below else "")

    def _clash(self, path: str) -> str:
        """Whether an earlier path means the same file where names are folded, as on a Mac."""
        at, above = path.rfind("/"), []
        if self._looked_at > MOST_FOLDERS and path[:at] not in self._folders:
            return f"is in a folder beyond the first {MOST_FOLDERS:,}"
        while at > 0:
            folder = path[:at]
            if folder in self._folders:
                break
            self._looked_at += 1
            first = self._spelled.setdefault(folded(folder), folder)
            if folder in self._files:
                return "is below a file there"
            if first != folder:
                return _same_name(first, folder)
            above.append(folder)  # known only when all above it are: a refused path proves none
            at = path.rfind("/", 0, at)
        self._folders.update(above)
        first = self._spelled.setdefault(folded(path), path)
        if first != path:
            return _same_name(first, path)
        if path in self._folders:
            return "is a file and a folder there"
        self._files.add(path)
        return ""


def _same_name(first: str, path: str) -> str:
    """Which difference of two names a Mac ignores."""
    if unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", path):
        return f"is the same name as {first} where composed and single letters are one, as on a Mac"
    return f"is the same name as {first} where case is ignored, as on a Mac"


def folded(path: str) -> str:
    """`path` as a file system compares it that ignores case, Unicode's ways of writing and marks
    without a width."""
    if path.isascii():
        return path.lower()
    path = _IGNORED.sub("", path)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def why_unsafe(path: str, below: tuple[str, ...] = ()) -> str:
    """Why a path that a host named may not be used here: '' for a plain relative one."""
    if below and path.partition("/")[0] not in below:
        return "is not below what was asked for"
    if len(path) < 240 and _ORDINARY.fullmatch(path):
        return ""
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        return "is not a plain relative path"
    if "\n" in path or "\r" in path:
        return "has a line break in its name"
    if any(unicodedata.category(letter) in _UNUSABLE for letter in path):
        return "has a control character, or bytes that are not UTF-8, in its name"
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in parts):
        return "has too long a name"
    return ""


def read_hashes(output: bytes, wanted: Iterable[str] | None = None) -> dict[str, str]:
    """{path: SHA-256} from lines of sha256sum, shasum or openssl dgst -r; others are left out."""
    hashes = {}
    for line in output.split(b"\n"):
        match = re.fullmatch(rb"(\\?)([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
        if match:
            escaped, digest, path = match.groups()
            name = path.replace(b"\\\\", b"\\") if escaped else path
            hashes[os.fsdecode(name)] = digest.decode()
    if wanted is None:
        return hashes
    return {name: hashes[name] for name in wanted if name in hashes}


def hashes_on(host: Host, files: dict[str, int], shown: bool = True) -> dict[str, str]:
    """{path: SHA-256} of `files` ({path: bytes}) in the kit there. Unreadable ones are missing.

    shown: a line moves meanwhile.
    """
    if not files:
        return {}
    if host.is_bucket:
        return host.hashes(files)
    named = "printf '%s\\0' " + " ".join(quote(f"./{name}") for name in files)
    limits = hash_limits(files.values(), len(os.fsencode(named)))
    doing = f"hashing {len(files):,} files, {console.size(sum(files.values()))}" if shown else ""
    script = host_shell.hash_script(host, named)
    return read_hashes(host.run_in_shell(script, doing, limits=limits, repeatable=True), files)


def hash_limits(sizes: Iterable[int], name_bytes: int) -> AnswerLimits:
    """What the answer to a hash script may take: one line a file, time to read the files."""
    sizes = list(sizes)
    return AnswerLimits(
        stdout=2 * name_bytes + 100 * len(sizes) + (1 << 16),
        silence=patience() + sum(sizes) / HASH_SPEED,
    )
