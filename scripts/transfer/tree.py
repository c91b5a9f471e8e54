"""What lies on each side: files with their signatures, what never travels, what is verified.

A signature is size, mtime, ctime, inode and the executable bit as one string. Every write through
a file system changes the ctime, and no program can set it back: a file whose signature is still
the one recorded when its SHA-256 was last compared is the same file. Damage below the file system
(a failing disk) does not change it; `--verify` reads everything again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kit import console, paths
from kit.secret_names import is_secret_name
from transfer.host import Host, quote

# Names of files and folders that never travel, by reason: whole names, beginnings, ends.
SECRET, CACHE, ENVIRONMENT = "a secret", "a cache", "an environment or git's own"
HALF_DONE = "half-done or set aside"
WHOLE = {
    **dict.fromkeys((".git", ".envs", ".venv"), ENVIRONMENT),
    **dict.fromkeys(("__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"), CACHE),
    **dict.fromkeys((".hypothesis", "node_modules", ".cache", ".DS_Store"), CACHE),
    ".ipynb_checkpoints": CACHE,
    **dict.fromkeys((".rsync-partial", ".incoming", ".replaced", ".jobs"), HALF_DONE),
    ".rehearsal": HALF_DONE,
    ".lock": "a lock of this machine's processes",
}
BEGINNINGS = {".venv-": ENVIRONMENT}
ENDS = {".pyc": CACHE}
_BEGINNINGS, _ENDS = tuple(BEGINNINGS), tuple(ENDS)
LINE_BREAK = "a line break in its name; rename it"
LINK = "a symbolic link; copy the file itself there"
STAY = {
    "models": "base models stay where they are; hf download on each host",
    "data/raw": "raw data stays here",
    "data/embeddings": "embeddings have their own way",
    "data/chroma": "the vector store is built where it is used",
    "adapters": "adapters come down, never up",
    "reports": "reports come down, never up",
}


class File(NamedTuple):
    """A regular file on one side. `seconds`: mtime, whole; `sig`: its signature."""

    size: int
    seconds: int
    executable: bool
    sig: str


def why_not(name: str) -> str:
    """Why a file or folder of this name never travels, or ''."""
    if name in WHOLE:
        return WHOLE[name]
    if name.startswith(_BEGINNINGS):
        return next(why for text, why in BEGINNINGS.items() if name.startswith(text))
    if name.endswith(_ENDS):
        return next(why for text, why in ENDS.items() if name.endswith(text))
    if is_secret_name(name):
        return SECRET
    return HALF_DONE if name[:1] == "." and name.endswith(".part") else ""


def stays(path: str) -> str:
    """Why `path`, relative to the kit's folder, never goes up: by a name in it or by its place."""
    parts = path.split("/")
    named = next(filter(None, map(why_not, parts)), "")
    if named or parts[-1] == ".gitkeep":
        return named
    placed = ("/".join(parts[:n]) for n in (1, 2))
    return next((STAY[place] for place in placed if place in STAY), "")


def look(path: str | os.PathLike) -> File | None:
    """The File at `path`, None where there is no regular file. Symbolic links are not followed."""
    try:
        return _file(os.stat(path, follow_symlinks=False))
    except OSError:
        return None


def _file(s: os.stat_result) -> File | None:
    if not stat.S_ISREG(s.st_mode):
        return None
    x = s.st_mode & 0o100
    sig = f"{x} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"
    return File(s.st_size, s.st_mtime_ns // 1_000_000_000, bool(x), sig)


def walk(root: str, skipped: dict[str, str], below: str = "") -> Iterator[tuple[str, File]]:
    """(path relative to `root`, File) of all below it that travels; the rest goes to `skipped`."""
    folders = [below]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if reason := why_not(entry.name) or _odd(entry):
                    skipped[path] = reason
                elif entry.is_dir():
                    folders.append(path)
                elif found := _file(entry.stat()):
                    yield path, found


def _odd(entry: os.DirEntry) -> str:
    if entry.is_symlink():
        return LINK
    return LINE_BREAK if "\n" in entry.name or "\r" in entry.name else ""


def local_hashes(files: Mapping[str, str | Path]) -> Iterator[tuple[str, str]]:
    """(name, SHA-256) of each; '' where a file is gone."""
    from kit import publish

    for name, path in files.items():
        try:
            yield name, publish.sha256(path)
        except FileNotFoundError:
            yield name, ""


class Beside:
    """A function that runs beside the caller and does not outlive it; `result()` waits for it."""

    def __init__(self, work: Callable, *args):
        import threading

        self._done: list = []
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(work, args), daemon=True)
        self._thread.start()

    def _run(self, work: Callable, args: tuple) -> None:
        try:
            self._done.append(work(*args))
        except BaseException as error:
            self._failed.append(error)

    def result(self):
        """What the function returned, or the exception that it raised."""
        self._thread.join()
        if self._failed:
            raise self._failed[0]
        return self._done[0]


# --- the far side: POSIX sh with GNU or BSD tools ------------------------------------------------

# far_list WHERE… [-prune expression]: `mode inode size mtime ctime path` records after a first
# line that names their end (printf0 or lines).
LISTING = r"""
far_list() {
  if find . -maxdepth 0 -printf '' 2>/dev/null; then
    echo nul; find "$@" -type f -printf '%m %i %s %T@ %C@ %p\0'
  elif stat -c %i . >/dev/null 2>&1; then
    echo lines; find "$@" -type f -exec stat -L -c '%a %i %s %Y %Z %n' {} +
  else
    echo lines; find "$@" -type f -exec stat -L -f '%Lp %i %z %Fm %Fc %N' {} +
  fi
}
"""
# far_hash: SHA-256 of the files named on stdin, each ended by NUL. openssl first: it uses the
# processor's SHA instructions where coreutils often does not (five times the speed).
HASH = r"""
far_tool() {
  case $(printf '' | openssl dgst -sha256 -r 2>/dev/null) in
    (e3b0c44298*) echo openssl; return ;;
  esac
  for tool in sha256sum shasum; do
    if command -v $tool >/dev/null 2>&1; then echo $tool; return; fi
  done
  echo none
}
far_hash() {
  case $(far_tool) in
    (openssl) xargs -0 -n 200 openssl dgst -sha256 -r ;;
    (sha256sum) xargs -0 -n 200 sha256sum ;;
    (shasum) xargs -0 -n 200 shasum -a 256 ;;
    (*) echo "no openssl, sha256sum or shasum" >&2; exit 1 ;;
  esac 2>/dev/null || true
}
"""
FACTS = r"""
place=$root
while [ ! -d "$place" ]; do
  case $place in (*/*) place=${place%/*}; [ -n "$place" ] || place=/;; (*) place=.;; esac
done
printf 'rsync %s\n' "$(command -v rsync || true)"
free='' before='' # the word before the percentage
for word in $(df -Pk "$place" 2>/dev/null); do
  case $word in ([0-9]*%) free=$before;; esac
  before=$word
done
printf 'free %s\n' "$free"
printf 'writable %s\n' "$([ -w "$place" ] && echo yes)"
"""


def probe_script(host: Host, listing: str) -> str:
    """Facts about the far side, then the listing of `listing` (find's arguments)."""
    stage = f"{quote(host.root)}/{quote(host.stage)}"
    return (
        f"LC_ALL=C; export LC_ALL; root={quote(host.root)}\n{LISTING}{FACTS}"
        f"[ ! -d {stage} ] || echo staged yes\n"
        f'if cd "$root" 2>/dev/null; then echo there yes; echo; far_list {listing}; '
        "else echo there; echo; echo nul; fi\nexit 0\n"
    )


def hash_script(host: Host, names: str = "") -> str:
    """Hash the files that stdin names, or that the shell text `names` prints, in the far kit."""
    source = f"{names} | far_hash" if names else "far_hash"
    return f"LC_ALL=C; export LC_ALL\n{HASH}cd {quote(host.root)} && {source}\n"


class Far:
    """What the probe found: `facts` by name, `files` by path relative to the kit's folder.

    `digest` stands for the whole listing: while it is the same, so is every signature in it.
    """

    def __init__(self, output: bytes):
        import hashlib

        head, _, self._listing = output.partition(b"\n\n")
        lines = head.decode(errors="replace").splitlines()
        self.facts: dict[str, str] = dict(line.partition(" ")[::2] for line in lines)
        self.digest = hashlib.sha256(self._listing).hexdigest()

    @functools.cached_property
    def files(self) -> dict[str, File]:
        """Taken apart only when somebody asks: it costs 5 ms for 1,000 files."""
        return read_listing(self._listing)

    def must_have_rsync(self, host: Host) -> None:
        """A Problem if the far side has no rsync."""
        from transfer import rsync

        if not self.facts["rsync"] and not host.folder:
            raise console.Problem(f"{host.name}: rsync is missing there", rsync.NO_RSYNC)


def read_listing(output: bytes) -> dict[str, File]:
    """{path: File} from what far_list printed."""
    kind, _, body = output.partition(b"\n")
    end = b"\0" if kind == b"nul" else b"\n"
    files = {}
    for record in body.split(end):
        fields = record.split(b" ", 5)
        if len(fields) == 6 and fields[0].isdigit():
            mode, size, mtime = int(fields[0], 8), int(fields[2]), fields[3]
            sig = b" ".join(fields[:5]).decode()
            path = os.fsdecode(fields[5].removeprefix(b"./"))
            files[path] = File(size, int(mtime.partition(b".")[0]), bool(mode & 0o100), sig)
    return files


def read_hashes(output: bytes) -> dict[str, str]:
    """{path: SHA-256} from lines of sha256sum, shasum or openssl dgst -r."""
    hashes = {}
    for line in output.split(b"\n"):
        found = re.fullmatch(rb"(\\?)([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
        if found:
            escaped, digest, path = found.groups()
            name = path.replace(b"\\\\", b"\\") if escaped else path
            hashes[os.fsdecode(name)] = digest.decode()
    return hashes


def far_hashes(host: Host, names: Iterable[str]) -> dict[str, str]:
    """{path: SHA-256} of files in the far kit, computed there. Unreadable ones are missing."""
    listed = b"".join(os.fsencode(f"./{name}") + b"\0" for name in names)
    return read_hashes(host.run(hash_script(host), listed)) if listed else {}


# --- what earlier transfers verified ------------------------------------------------------------


class Record:
    """{path: (SHA-256, signature here, signature there)} of everything verified before.

    Only a cache: without it, or with a damaged one, contents are compared again.
    """

    def __init__(self, host: Host, direction: str):
        self.path = paths.workdir() / ".cache" / "transfer" / f"{direction}-{host.ident}.json"
        self.files: dict[str, list[str]] = {}
        self.listing = ""  # the digest of a listing there in which all these signatures hold
        self.dirty = False
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError):
            body = json.loads(self.path.read_text(encoding="utf-8"))
            self.files, self.listing = body["files"], body["listing"]

    def all_hold(self, near: dict[str, File], covered: Callable[[str], bool], digest: str) -> bool:
        """Whether nothing at all has been touched since: one comparison for the whole far side."""
        if not digest or digest != self.listing:
            return False
        nothing = ("", "", "")
        return sum(map(covered, self.files)) == len(near) and all(
            self.files.get(path, nothing)[1] == file.sig for path, file in near.items()
        )

    def holds(self, path: str, near: File, far: File) -> bool:
        """Whether these two were found equal and neither has been touched since."""
        return self.files.get(path, ("", "", ""))[1:] == [near.sig, far.sig]

    def sent(self, path: str, far: File) -> bool:
        """Whether what lies there is what an earlier sync left, or found equal."""
        return self.files.get(path, ("", "", ""))[2] == far.sig

    def put(self, path: str, digest: str, near: File | None, far: File | None) -> None:
        """Remember that both sides hold `digest` at `path`."""
        known = [digest, near.sig, far.sig] if near and far else None
        if known and self.files.get(path) != known:
            self.files[path] = known
            self.dirty = True

    def drop(self, path: str) -> None:
        """Forget `path`."""
        self.dirty |= self.files.pop(path, None) is not None

    def save(self, far: dict[str, File] | None = None, digest: str = "") -> None:
        """Publish it if anything changed. `far` and `digest`: the listing there as it is now."""
        known = far is not None and all(
            path in far and far[path].sig == sig for path, (_, _, sig) in self.files.items()
        )
        listing = digest if known else ""
        if self.dirty or listing != self.listing:
            from kit import publish

            with publish.file(self.path) as f:
                json.dump({"files": self.files, "listing": listing}, f)


@contextlib.contextmanager
def only_one(record: Record, host: Host) -> Iterator[None]:
    """Hold this transfer's lock: a second one of the same direction and host ends at once."""
    import fcntl

    record.path.parent.mkdir(parents=True, exist_ok=True)
    with open(record.path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise console.Problem(
                f"another sync with {host.place} is running", "wait for it to end"
            ) from None
        yield


def printable(name: str) -> str:
    """A file name that any terminal can show."""
    return name.encode(errors="backslashreplace").decode() if name.isprintable() else repr(name)


def amount(files: Iterable[File]) -> str:
    """`3 files, 1.2 MB`"""
    sizes = [f.size for f in files]
    return f"{len(sizes):,} file{'s' * (len(sizes) != 1)}, {console.size(sum(sizes))}"


def say_files(kind: str, names: list[str], files: dict[str, File], emit) -> None:
    """One plan line: the kind, how many, how much, the first names."""
    if names:
        first = ", ".join(map(printable, names[:5])) + (", …" if len(names) > 5 else "")
        emit(f"{kind:<9} {amount(files[n] for n in names if n in files)}: {first}")


def say_skipped(skipped: dict[str, str], emit) -> None:
    """The plan's last lines: what does not travel and why, one line a reason."""
    by_reason: dict[str, list[str]] = {}
    for path, why in skipped.items():
        by_reason.setdefault(why, []).append(path)
    for why, names in sorted(by_reason.items()):
        first = ", ".join(map(printable, names[:5])) + (", …" if len(names) > 5 else "")
        emit(f"skipped   {first}: {why}")
