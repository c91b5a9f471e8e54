"""Names here that mean the same file as a host's name where case and Unicode forms are ignored.

The host's `Readme.md` would overwrite the laptop's `README.md` on a Mac's disk; on a Linux disk the
two would stand side by side and become one on the next Mac that they reach.
"""

from __future__ import annotations

import os
from pathlib import Path

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
