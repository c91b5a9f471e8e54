"""Find, resolve and publish the versions on disk: adapters/<name>/<vX.Y.Z>/.

Facts that change later are files next to the version: vX.Y.Z.retired.json and
vX.Y.Z.canary.json. A number is never given twice, not even when a version's folder is deleted
after it was retired.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapters import card as cards
from adapters import card_schema, names
from adapters.weights import Difference
from kit import console, json_files, paths, publish

STALE = 3600  # seconds after which an unfinished staging folder belongs to nobody


@dataclasses.dataclass(frozen=True)
class Version:
    """One version: `folder` contains the PEFT files and card.json."""

    name: str
    number: names.VersionNumber
    folder: Path

    @property
    def version(self) -> str:
        """'v1.0.0'"""
        return names.text(self.number)

    @property
    def reference(self) -> str:
        """'mapper-lora@v1.0.0'"""
        return f"{self.name}@{self.version}"

    @property
    def card(self) -> dict[str, Any]:
        """card.json; Difference where it is missing, damaged, or another version's."""
        try:
            card = json_files.read(self.folder / cards.FILE)
        except FileNotFoundError:
            raise Difference(cards.FILE, f"missing in {self.reference}", RESTORE) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise Difference(cards.FILE, f"damaged: {why} ({self.reference})", RESTORE) from None
        wrong = card_schema.problem(card)
        if wrong:
            raise Difference(cards.FILE, f"damaged: {wrong} ({self.reference})", RESTORE)
        return card

    def fact_file(self, what: str) -> Path:
        """The file of a fact that may change: fact_file('retired'), fact_file('canary')."""
        return self.folder.parent / f"{self.version}.{what}.json"

    @property
    def retired(self) -> dict[str, Any] | None:
        """{"reason", "when"} where the version was retired. A damaged mark is a mark."""
        file = self.fact_file("retired")
        try:
            mark = json_files.read(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return {"reason": f"not known: {file.name} is damaged ({error})", "when": None}
        reason, when = mark.get("reason"), mark.get("when")
        return {"reason": reason if isinstance(reason, str) else "not known",
                "when": when if isinstance(when, str) else None}  # fmt: skip

    @property
    def canary(self) -> dict[str, Any] | None:
        """What the canary found, None where there was none. A damaged file counts as a failure."""
        file = self.fact_file("canary")
        try:
            return json_files.read(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return {"ok": False, "why": f"{file.name} is damaged ({error})"}

    @property
    def bytes(self) -> int:
        """The size of all its files; 0 for what cannot be read."""
        sizes = 0
        for folder, _, files in os.walk(self.folder):
            for name in files:
                with contextlib.suppress(OSError):
                    sizes += os.lstat(os.path.join(folder, name)).st_size
        return sizes


RESTORE = "restore the version: unpack its archive, or register the run again"


def all_names(root: Path) -> list[str]:
    """The adapters that have a version."""
    if not root.is_dir():
        return []
    folders = [p for p in root.iterdir() if p.is_dir() and names.NAME.fullmatch(p.name)]
    return sorted(
        p.name for p in folders if p.name not in names.RESERVED and versions(root, p.name)
    )


def versions(root: Path, name: str) -> list[Version]:
    """Every version of `name`, lowest first, retired ones too."""
    folder = root / name
    try:
        entries = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    except OSError as error:  # it must not hide the other adapters
        console.warn(f"{paths.show(folder)} cannot be read: {error.strerror}")
        return []
    numbered = [(names.number(path.name), path) for path in entries]
    return sorted((Version(name, n, p) for n, p in numbered if n), key=lambda v: v.number)


def matching(root: Path, reference: str) -> list[Version]:
    """Every version that 'name', 'name@v1.0.0', 'name@latest' or 'name@^1.0' allows, lowest first.

    Misuse with similar names where there is none. Ranges and latest skip retired versions.
    """
    name, wanted = names.split(reference)
    present = versions(root, name)
    if not present:
        known = all_names(root)
        close = difflib.get_close_matches(name, known, 1, 0.4)
        listed = f"there are: {', '.join(known)}" if known else "register a run first"
        hint = f"did you mean {close[0]}?" if close else listed
        raise console.Misuse(f"no adapter is named {name}", hint)
    exact = names.number(wanted if wanted.startswith("v") else f"v{wanted}")
    eligible = {v.number: v for v in present if exact or not v.retired}
    allowed = names.matches(wanted, list(eligible))
    if not allowed:
        listed = ", ".join(v.version + (" (retired)" if v.retired else "") for v in present[-5:])
        raise console.Misuse(f"{name} has no version {wanted}", f"there are: {listed}")
    return [eligible[n] for n in allowed]


def readable(root: Path, name: str) -> list[Version]:
    """The versions of `name` to compare with: not retired, and with a readable card.

    A damaged card is only a warning: it must not prevent a new version.
    """
    sound = []
    for version in versions(root, name):
        try:
            if version.card and not version.retired:
                sound.append(version)
        except Difference as difference:
            console.warn(f"{version.reference} is left out: {difference}")
    return sound


def resolve(root: Path, reference: str) -> Version:
    """The one version that a reference means: the highest that it allows. Misuse for none."""
    return matching(root, reference)[-1]


def latest_number(root: Path, name: str) -> names.VersionNumber | None:
    """The highest number ever given to a version of `name`."""
    folder = root / name
    if not folder.is_dir():
        return None
    taken = (p.name.partition(".retired")[0] for p in folder.iterdir())
    return max(filter(None, map(names.number, taken)), default=None)


def sweep(folder: Path, pattern: str) -> None:
    """Delete staging folders of killed commands that are older than an hour."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            newest = max(p.stat().st_mtime for p in (leftover, *leftover.rglob("*")))
            if time.time() - newest > STALE:
                shutil.rmtree(leftover, ignore_errors=True)
                console.note(f"removed {paths.show(leftover)}, left by an interrupted command")


def publish_version(
    root: Path,
    name: str,
    number: Callable[[], names.VersionNumber],
    fill: Callable[[Version], None],
) -> Version:
    """Stage a version with `fill(staged version)` and give it the number that is free at the end.

    The rename to vX.Y.Z is the lock: of two that want the same number, one finds it taken and
    continues to the next. A kill at any point leaves a hidden staging folder and no version.
    """
    sweep(root / name, ".v*.part")
    while True:
        chosen = number()
        with contextlib.suppress(FileExistsError):
            return publish_as(Version(name, chosen, root / name / names.text(chosen)), fill)


def publish_as(version: Version, fill: Callable[[Version], None]) -> Version:
    """Stage `version` with `fill` and rename it into place; FileExistsError if it is taken."""
    try:
        with publish.folder(version.folder) as stage:
            fill(dataclasses.replace(version, folder=stage))
            for file in stage.rglob("*"):
                if file.is_file():
                    file.chmod(0o444)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, "taken", str(version.folder)) from None
        raise
    return version


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A hidden folder below `root` for what is not yet checked; deleted at the end."""
    import tempfile

    root.mkdir(parents=True, exist_ok=True)
    sweep(root, ".unpack.*.part")
    folder = Path(tempfile.mkdtemp(prefix=".unpack.", suffix=".part", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_space(folder: Path) -> int:
    """Free bytes on the disk of `folder` or of the nearest folder above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(os.fspath(folder)).free
