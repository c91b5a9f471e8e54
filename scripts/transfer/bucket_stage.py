"""The staging folder that a push has in a bucket.

What arrived is compared by the checksum that the store computed itself, or read back where it gives
none; only then is it moved, inside the store, to its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from kit import console
from transfer import sync_lines
from transfer.adapter_units import CONFIGURATIONS, TRAINER_STATE
from transfer.bucket import BucketHost, BucketState
from transfer.listing import ListedFile
from transfer.push_plan import LAST
from transfer.push_stage import PushStage

BLOCK = 1 << 20
# Moved last: a folder of a run counts as whole once it has its own of these.
VOUCHING = (*LAST, TRAINER_STATE, *CONFIGURATIONS)


class BucketStage(PushStage):
    """`.incoming/LAPTOP/` in the bucket: filled, compared and emptied as on a host."""

    host: BucketHost

    def __init__(self, host, local, carrier, name: str, look: Callable[[], BucketState]):
        super().__init__(host, local, carrier, name)
        self.look = look  # lists what the push looks at
        self.checksums: dict[str, tuple[str, str]] = {}  # SHA-256 and the store's, of files here

    def _prepare(self, names: list[str], seeds: list[str], doubtful: list[str]) -> None:
        if doubtful:
            self.host.ask(["delete", *self.host.names(doubtful), self.host.at(self.folder)])

    def _copy(self, names: list[str]) -> dict[str, str]:
        """Carry them there, and at the same time hash what is here, twice in one reading."""
        self.checksums |= self._carry(names, self._hash_here)
        return {path: self.checksums[path][0] for path in names}

    def _hash_here(self, place: dict[str, str]) -> dict[str, tuple[str, str]]:
        """{path: (SHA-256, the store's kind of checksum)}; ('', '') where a file is gone."""
        return {path: two_hashes(file, self.host.hash_kind) for path, file in place.items()}

    def _hashes(self, names: list[str]) -> dict[str, str]:
        """{path: SHA-256} of what is staged and has the checksum of what was read here."""
        kind = self.host.hash_kind
        staged = self.host.objects(self.folder)
        if not kind:
            return self.host.read_hashes(self.folder, [name for name in names if name in staged])
        right = {n for n in names if n in staged and staged[n][1] == f"{kind}:{self._second(n)}"}
        doubted = [n for n in names if n in staged and not staged[n][1].startswith(f"{kind}:")]
        hashes = {name: self.checksums[name][0] for name in right}
        return hashes | self.host.read_hashes(self.folder, doubted)

    def _second(self, name: str) -> str:
        return self.checksums[name][1]

    def commit(
        self,
        names: list[str],
        known: dict[str, str],
        over: set[str],
        aside: list[str],
        strays: list[str],
        listing: str,
    ) -> BucketState:
        """Move `names` to their place and `aside` away; the state there afterwards.

        What is replaced goes to .replaced/ unless it is, by a look just before, what an earlier
        push left.
        """
        current = self.look().listing().files
        others = [p for p in names if p in current and current[p].sig != known.get(p)]
        self._copy_inside([*aside, *others], "", self.kept)
        if aside:
            self.host.delete(aside)
        for last in (False, True):
            batch = [name for name in names if name.endswith(VOUCHING) is last]
            self._copy_inside(batch, self.folder, "")
        self.host.drop_stage(self.folder)
        if others:
            shown = sync_lines.names(sorted(others))
            console.note(f"kept      {shown}: what was there is in {self.host.at(self.kept)}")
        return self.look()

    def is_ours(self, path: str, now: ListedFile | None) -> bool:
        """Whether what has the name now is what was staged; by its size where the store gives no
        checksum of it."""
        if now is None or path not in self.checksums:
            return False
        size, _, tag = now.sig.partition(" ")
        if tag.partition(":")[0] == self.host.hash_kind:
            return tag == f"{self.host.hash_kind}:{self._second(path)}"
        return size == str(self.local.files[path].size)

    def _copy_inside(self, names: list[str], below: str, to: str) -> None:
        """Copy objects inside the store: `move` and --backup-dir refuse a folder in the other."""
        if names:
            words = ["copy", "--ignore-times", "--no-traverse", *self.host.names(names)]
            self.host.ask([*words, self.host.at(below), self.host.at(to)])


def two_hashes(path: str, kind: str) -> tuple[str, str]:
    """(SHA-256, checksum of `kind`) of one reading of a file; ('', '') where it is gone."""
    first = hashlib.sha256()
    second = hashlib.new(kind, usedforsecurity=False) if kind else None
    try:
        with open(path, "rb") as f:
            while block := f.read(BLOCK):
                first.update(block)
                if second:
                    second.update(block)
    except FileNotFoundError:
        return "", ""
    return first.hexdigest(), second.hexdigest() if second else ""
