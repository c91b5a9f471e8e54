"""Versions that come into the store while a server runs: what a name means now, and its checks.

A server follows the adapters that it was started with. `NAME` and `NAME@^1.0` mean the highest
version that the store has now and that its --checkpoint allows; `NAME@v1.2.0` means that one. A
version that is not served yet is verified as at the start, then loaded beside the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapters import effect as effects
from adapters import names, version_store
from adapters.card_schema import MOST_FILES
from adapters.version_store import Version
from kit import console
from serving import model_catalog
from serving.model_catalog import Catalog, Served

MOST_ADDED = 32  # versions loaded after the start: each keeps its memory until the server ends
SETTLED = 2.0  # seconds after which a folder's time of change tells every later change


@dataclasses.dataclass
class FollowedAdapter:
    """One adapter of the store. ranges: what its --checkpoint allow, ['latest'] for all."""

    root: Path
    ranges: list[str]
    listed: list[Version] = dataclasses.field(default_factory=list)
    retired: set[names.VersionNumber] = dataclasses.field(default_factory=set)
    changed: int = 0  # when the listed folder changed last, in ns; 0: not known

    def look(self, name: str) -> list[Version]:
        """Its versions, lowest first. The folder is listed again when it changed."""
        try:
            changed = (self.root / name).stat().st_mtime_ns
        except OSError:
            return []
        if changed != self.changed:
            self.listed = version_store.versions(self.root, name)
            self.retired = {version.number for version in self.listed if version.retired}
            self.changed = changed if time.time() - changed / 1e9 > SETTLED else 0
        return self.listed


class LiveVersions:
    """What the names of a Catalog mean in the store now."""

    def __init__(self, catalog: Catalog, references: Iterable[str] = (), one_pass: bool = True):
        """one_pass: whether adapters share the passes of our own engine, as far as they can."""
        self.catalog, self.one_pass = catalog, one_pass
        self.followed: dict[str, FollowedAdapter] = {}
        self.added = 0  # versions that are served since
        self._names = itertools.count()  # PEFT's names for them: none is used twice
        self._refused: dict[str, tuple[Any, console.Problem]] = {}  # reference -> (files, why)
        asked = dict.fromkeys(references)
        for served in catalog.served:
            if served.version:
                version = served.version
                root = version.folder.parent.parent
                adapter = self.followed.setdefault(version.name, FollowedAdapter(root, []))
                adapter.ranges += _ranges(version, asked)

    def candidates(self, name: str) -> list[Version]:
        """The versions that a name means, the wanted one last; [] where the catalog alone knows."""
        try:
            adapter_name, wanted = names.split(name)
            adapter = self.followed[adapter_name]
            present = {version.number: version for version in adapter.look(adapter_name)}
            exact = names.number(wanted if wanted.startswith("v") else f"v{wanted}")
            if not exact:
                allowed = {n for r in adapter.ranges for n in names.matches(r, list(present))}
                present = {n: v for n, v in present.items() if n in allowed - adapter.retired}
            return [present[n] for n in names.matches(wanted, list(present))]
        except (console.Problem, KeyError):
            return []

    def served(self, version: Version) -> Served | None:
        """The model of the catalog that is this version."""
        return next((s for s in self.catalog.served if s.id == version.reference), None)

    def prepare(self, version: Version) -> Served:
        """A new Served, every file verified. Problem for what cannot be served beside the others.

        What was refused once is looked at again when a file of it changed.
        """
        before, files = self._refused.get(version.reference), _files(version.folder)
        if before and before[0] == files:
            raise before[1]
        try:
            made = self._check(version)
        except Exception as error:  # also of a folder that goes away meanwhile
            raise self.refuse(version, files, error) from None
        made.files = files
        return made

    def refuse(self, version: Version, files: Any, error: Exception) -> console.Problem:
        """Remember why a version with these files is refused, and say it once; the Problem."""
        text = getattr(error, "strerror", None) or console.first_line(error)  # without a path
        problem = error if isinstance(error, console.Problem) else console.Problem(text)
        why = console.Problem(f"{version.reference} cannot be served: {problem.text}",
                              problem.remedy)  # fmt: skip
        self._refused[version.reference] = (files, why)
        console.warn(str(why))
        return why

    def check_unchanged(self, made: Served) -> None:
        """Problem where the files that were loaded may be others than those that were verified."""
        if _files(made.version.folder) != made.files:
            raise console.Problem("its files changed while it was loaded", "ask for it again")

    def _check(self, version: Version) -> Served:
        catalog = self.catalog
        if self.added >= MOST_ADDED:
            raise console.Problem(
                f"{self.added} versions were loaded since the start",
                "restart the server, which then loads what it is asked for",
            )
        made = model_catalog.verified(
            version, catalog.folder, catalog.options, f"n{next(self._names)}"
        )
        made.parent = next((s.id for s in catalog.served if s.adapter == model_catalog.BASE), None)
        if self.one_pass:
            self._check_company(made)
        return made

    def _check_company(self, made: Served) -> None:
        """Problem where our engine cannot serve it beside those that are there."""
        catalog = self.catalog
        quantized = catalog.quantization["load_in_4bit"] or catalog.quantization["load_in_8bit"]
        made.effect.check_serve(made.id, quantized)
        others = {served.id: served.effect for served in catalog.served if served.effect}
        company = effects.check_company(others | {made.id: made.effect})
        if catalog.mixed and company != effects.TOGETHER:
            raise console.Problem(
                "its adapter takes turns with others, and those here share steps",
                "restart the server with it, or serve it alone",
            )

    def take(self, made: Served) -> None:
        """Serve it from now on: the base stays last."""
        self.added += 1
        served = self.catalog.served
        bases = [one for one in served if one.version is None]
        self.catalog.served = [*(one for one in served if one.version), made, *bases]


def _ranges(version: Version, asked: Iterable[str]) -> list[str]:
    """The ranges of those --checkpoint that mean this version; a folder means it alone."""
    ranges = []
    for reference in asked:
        name, _, wanted = reference.partition("@")
        if "/" not in reference and name == version.name:
            ranges.append(wanted.strip() or "latest")
    return ranges or [version.version]


def _files(folder: Path) -> Any:
    """Sizes and times of a version's files: equal where nothing changed."""
    try:
        present = itertools.islice(folder.rglob("*"), 2 * MOST_FILES)  # a link may lead anywhere
        stats = [(file, file.lstat()) for file in sorted(present)]
    except OSError:
        return None
    return [(str(f), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for f, s in stats]
