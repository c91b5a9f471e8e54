"""What is here and should be on the host: the kit, its configs, the prepared data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kit import paths
from transfer import tree
from transfer.tree import File

WITHOUT_GIT = (
    "scripts configs docs tests .ci .github Makefile setup_local.sh setup_remote.sh "
    "requirements-local.txt requirements-remote.txt environment-remote.yml pyproject.toml "
    "README.md LICENSE CHANGELOG.md CONTRIBUTING.md .gitignore data models adapters"
)


class Near:
    """The files here that should be there: `files` by their path there, `place` of each here."""

    def __init__(self, kit_only: bool):
        self.files: dict[str, File] = {}
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
        for place, why in tree.STAY.items():
            here = paths.workdir() / place
            if here.is_dir() and any(name != ".gitkeep" for name in os.listdir(here)):
                self.skipped[place + "/"] = why

    def _kit(self) -> None:
        root = str(paths.ROOT)
        for path in tracked(self.skipped) or self._everything():
            if reason := tree.stays(path):
                self.skipped[path] = reason
            elif found := tree.look(f"{root}/{path}"):
                self.files[path], self.place[path] = found, f"{root}/{path}"
            elif os.path.islink(f"{root}/{path}"):
                self.skipped[path] = tree.LINK

    def _everything(self) -> list[str]:
        """Without git: the named parts of the kit."""
        named = WITHOUT_GIT.split()
        found = [name for name in named if (paths.ROOT / name).is_file()]
        for name in filter(lambda n: (paths.ROOT / n).is_dir(), named):
            found += [path for path, _ in tree.walk(str(paths.ROOT), self.skipped, name)]
        kept = ("data/", "models/", "adapters/")
        return [p for p in found if not p.startswith(kept) or p.endswith("/.gitkeep")]

    def _folder(self, folder: Path, there: str) -> None:
        here = str(folder.resolve())
        skipped: dict[str, str] = {}
        for path, found in tree.walk(here, skipped):
            self.files[f"{there}/{path}"] = found
            self.place[f"{there}/{path}"] = f"{here}/{path}"
        self.skipped |= {f"{there}/{path}": why for path, why in skipped.items()}

    def covers(self, path: str) -> bool:
        """Whether this run looked at everything that may lie at `path`."""
        return not (self.kit_only and path.startswith("data/"))

    def refresh(self, path: str) -> None:
        """Look at one file again; gone files leave."""
        if found := tree.look(self.place[path]):
            self.files[path] = found
        else:
            del self.files[path], self.place[path]

    def groups(self, names: list[str]) -> dict[tuple[Path, str], list[str]]:
        """`names` by (folder here, folder there) that one rsync can serve, relative to both."""
        grouped: dict[tuple[Path, str], list[str]] = {}
        for name in names:
            here = self.place[name]
            if here.endswith("/" + name):
                key, rest = (Path(here[: -len(name)]), ""), name
            else:
                there = "configs" if name.startswith("configs/") else "/".join(name.split("/")[:2])
                rest = name[len(there) + 1 :]
                key = (Path(here[: -len(rest)]), there)
            grouped.setdefault(key, []).append(rest)
        return grouped


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
