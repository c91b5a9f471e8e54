"""Names here that stand in the way of a host's: the same in another spelling, a folder, a file.

The host's `Readme.md` would overwrite the laptop's `README.md` on a Mac's disk; on a Linux disk the
two would stand side by side and become one on the next Mac that they reach. A file there never
takes the place of a folder here, nor the reverse.
"""

from __future__ import annotations

import os
from pathlib import Path

from kit import paths
from transfer.listing import folded


class LocalNames:
    """The names in the folders here, each folder read once."""

    def __init__(self):
        self._read: dict[str, tuple[set[str], dict[str, str]]] = {}

    def other_spelling(self, top: Path, path: str) -> str:
        """The path below `top` that is `path` spelled in another way, '' where there is none."""
        folder = ""
        for name in path.split("/"):
            exact, spelled = self._names(f"{top}/{folder}")
            if name in exact:
                folder += name + "/"
            elif other := spelled.get(folded(name)):
                return folder + other
            else:
                return ""
        return ""

    def _names(self, folder: str) -> tuple[set[str], dict[str, str]]:
        """(the names in `folder`, the same by their folded form)."""
        if folder not in self._read:
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            self._read[folder] = set(names), {folded(name): name for name in names}
        return self._read[folder]


class LocalKinds:
    """What has the place of a host's new file here (a folder, a file); each folder is read once."""

    def __init__(self):
        self._folders: set[Path] = set()

    def why_blocked(self, final: Path, top: Path) -> str:
        """Why no file can get the name `final` below the folder `top`, or ''."""
        for folder in [p for p in reversed(final.parents) if top in p.parents]:
            if folder not in self._folders and os.path.lexists(folder):
                if not folder.is_dir():
                    return f"is below what is a folder there and a file here: {paths.show(folder)}"
                self._folders.add(folder)
        return f"is a file there and a folder here: {paths.show(final)}" if final.is_dir() else ""
