"""The files of this machine: looked at, hashed, and those that should be on the host."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kit import console, paths, publish
from kit.moving_line import MovingLine
from transfer import exclusions
from transfer.listing import ListedFile

WITHOUT_GIT = (
    "scripts configs docs tests .ci .github Makefile setup_local.sh setup_remote.sh "
    "requirements-local.txt requirements-remote.txt environment-remote.yml pyproject.toml "
    "README.md LICENSE CHANGELOG.md CONTRIBUTING.md .gitignore data models adapters"
)


def look(path: str | os.PathLike) -> ListedFile | None:
    """The file at `path`, None where there is no regular file. Symbolic links are not followed."""
    try:
        return _listed(os.stat(path, follow_symlinks=False))
    except OSError:
        return None


def _listed(s: os.stat_result) -> ListedFile | None:
    if not stat.S_ISREG(s.st_mode):
        return None
    x = s.st_mode & 0o100
    sig = f"{x} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"
    return ListedFile(s.st_size, s.st_mtime_ns // 1_000_000_000, bool(x), sig)


def walk(root: str, skipped: dict[str, str], below: str = "") -> Iterator[tuple[str, ListedFile]]:
    """(path relative to `root`, its file) of all below it that travels; the rest in `skipped`."""
    folders = [below]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if reason := exclusions.why_not(entry.name) or _odd(entry):
                    skipped[path] = reason
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif listed := _listed(entry.stat(follow_symlinks=False)):
                    yield path, listed
                else:
                    skipped[path] = exclusions.SPECIAL


def _odd(entry: os.DirEntry) -> str:
    if entry.is_symlink():
        return exclusions.LINK
    return exclusions.LINE_BREAK if "\n" in entry.name or "\r" in entry.name else ""


def hash_all(files: Mapping[str, str | Path]) -> dict[str, str]:
    """{name: SHA-256} of each; '' where a file is gone."""
    hashes = {}
    for name, path in files.items():
        try:
            hashes[name] = publish.sha256(path)
        except FileNotFoundError:
            hashes[name] = ""
        except PermissionError as error:
            raise console.Problem(
                f"{paths.show(path)}: {error.strerror}", f"let this user read it: chmod u+r {path}"
            ) from None
    return hashes


class Background:
    """A function that runs while its caller goes on; `result()` waits for it."""

    def __init__(self, work: Callable, *args):
        self._returned: list = []
        self._raised: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(work, args), daemon=True)
        self._thread.start()

    def _run(self, work: Callable, args: tuple) -> None:
        try:
            self._returned.append(work(*args))
        except BaseException as error:
            self._raised.append(error)

    def result(self, doing: str = ""):
        """What the function returned, or the exception that it raised.

        `doing`: what the line says that moves meanwhile; '' where the function shows one.
        """
        with MovingLine(doing) if doing else contextlib.nullcontext():
            self._thread.join()
        if self._raised:
            raise self._raised[0]
        return self._returned[0]


class LocalFiles:
    """The kit, its configs and the prepared data: what should be on the host.

    `files` by their path there, `place` of each here, `skipped` with the reason.
    """

    def __init__(self, kit_only: bool):
        self.files: dict[str, ListedFile] = {}
        self.place: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.kit_only = kit_only
        self._kit()
        self._folder(paths.ROOT / "configs", "configs")
        if paths.workdir() != paths.ROOT:
            self._folder(paths.workdir() / "configs", "configs")
        if not kit_only:
            self._folder(paths.folder("data_processed"), "data/processed")
            self._folder(paths.folder("data_synthetic"), "data/synthetic")
        for place, why in exclusions.STAY.items():
            here = paths.workdir() / place
            if here.is_dir() and any(name != ".gitkeep" for name in os.listdir(here)):
                self.skipped[place + "/"] = why

    def _kit(self) -> None:
        root = str(paths.ROOT)
        for path in tracked(self.skipped) or self._everything():
            if reason := exclusions.stays(path):
                self.skipped[path] = reason
            elif listed := look(f"{root}/{path}"):
                self.files[path], self.place[path] = listed, f"{root}/{path}"
            elif os.path.islink(f"{root}/{path}"):
                self.skipped[path] = exclusions.LINK

    def _everything(self) -> list[str]:
        """Without git: the named parts of the kit."""
        named = WITHOUT_GIT.split()
        files = [name for name in named if (paths.ROOT / name).is_file()]
        for name in filter(lambda n: (paths.ROOT / n).is_dir(), named):
            files += [path for path, _ in walk(str(paths.ROOT), self.skipped, name)]
        kept = ("data/", "models/", "adapters/")
        return [p for p in files if not p.startswith(kept) or p.endswith("/.gitkeep")]

    def _folder(self, folder: Path, remote_folder: str) -> None:
        here = str(folder.resolve())
        skipped: dict[str, str] = {}
        for path, listed in walk(here, skipped):
            self.files[f"{remote_folder}/{path}"] = listed
            self.place[f"{remote_folder}/{path}"] = f"{here}/{path}"
        self.skipped |= {f"{remote_folder}/{path}": why for path, why in skipped.items()}

    def covers(self, path: str) -> bool:
        """Whether this run looked at everything that may lie at `path`."""
        return not (self.kit_only and path.startswith("data/"))

    def refresh(self, path: str) -> None:
        """Look at one file again; forget it if it is gone."""
        if listed := look(self.place[path]):
            self.files[path] = listed
        else:
            del self.files[path], self.place[path]

    def has_files_in(self, folder: str) -> bool:
        """Whether anything but .gitkeep lies in `folder` here."""
        return any(p.startswith(folder + "/") and p[-9:] != "/.gitkeep" for p in self.files)

    def groups(self, names: list[str]) -> dict[tuple[Path, str], list[str]]:
        """`names` by (folder here, folder there) that one transfer serves, relative to both."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for name in names:
            here = self.place[name]
            if here.endswith("/" + name):
                key, rest = (here[: -len(name)], ""), name
            else:
                remote_folder = (
                    "configs" if name.startswith("configs/") else "/".join(name.split("/")[:2])
                )
                rest = name[len(remote_folder) + 1 :]
                key = (here[: -len(rest)], remote_folder)
            grouped.setdefault(key, []).append(rest)
        return {(Path(here), there): rest for (here, there), rest in grouped.items()}


def tracked(skipped: dict[str, str]) -> list[str]:
    """What git tracks in this checkout; nothing where there is no git or no repository.

    New files that git neither tracks nor ignores go to `skipped`.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(paths.ROOT), "ls-files", "-z", "-t", "-c", "-o"]
    command.append("--exclude-standard")
    try:
        listed = subprocess.run(command, capture_output=True, env=env, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    known = [name[2:] for name in names if not name.startswith("? ")]
    if known:
        new = [name[2:] for name in names if name.startswith("? ")]
        skipped |= {name: "not in git; git add it" for name in new if name[:8] != "configs/"}
    return known
