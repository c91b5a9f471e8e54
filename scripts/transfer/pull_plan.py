"""What a pull fetches: which files, which folders as one unit, and what it may not take."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from kit import paths
from transfer import adapter_units, exclusions, local_files, sync_lines
from transfer.adapter_units import is_version, unit_of
from transfer.host import Host
from transfer.listing import UNKNOWN_TIME, HostState, ListedFile, hashes_on
from transfer.local_names import LocalKinds, LocalNames
from transfer.record import TransferRecord

folder = functools.lru_cache(paths.folder)  # asked once for each file


def local_path(path: str) -> Path:
    """Where a file of the host's adapters/ or reports/ lies here."""
    top, _, rest = path.partition("/")
    return folder(top) / rest


class PullPlan:
    """`fetch` maps each path to 'new' or 'changed'; `units` come whole.

    `refused`: {path or unit: why it may not come}, which makes the sync end with 1; `skipped` is
    no failure, and `unfinished` is what is still being written there. `lacking`: {unit: the files
    here that the host's lacks}.
    """

    def __init__(
        self, host: Host, state: HostState, record: TransferRecord, args: argparse.Namespace
    ):
        listing = state.listing()
        self.host, self.record = host, record
        self.skipped: dict[str, str] = {}
        self.unfinished: dict[str, str] = {}
        self.refused = dict(listing.refused)
        self.remote_files: dict[str, ListedFile] = {}
        for path, listed in listing.files.items():
            if self._travels(path, args.with_checkpoints):
                self.remote_files[path] = listed
        self._refuse_unread(listing.unread)
        self._refuse_incomplete()
        self.here = {path: local_files.look(local_path(path)) for path in self.remote_files}
        self.fetch: dict[str, str] = {}
        self.same: list[str] = []
        unsure = [path for path in self.remote_files if not self._decide(path, args.verify)]
        self._refuse_other_spellings([*self.fetch, *unsure])
        self._refuse_other_kinds()
        self._settle([path for path in unsure if path in self.remote_files])
        self._whole_units()

    def _travels(self, path: str, checkpoints: bool) -> bool:
        """Whether `path` comes; the reason goes to `skipped` or `refused` if it does not."""
        parts = path.split("/")
        if parts[-1] == ".gitkeep" or len(parts) < 2:
            return False
        if parts[1] == "runs" and parts[3:4] == ["checkpoints"] and not checkpoints:
            self.skipped["/".join(parts[:4])] = (
                "checkpoints stay there; --with-checkpoints brings them"
            )
            return False
        if why := next(filter(None, map(exclusions.why_not, parts)), ""):
            self.skipped[path] = why
        elif why := adapter_units.why_form(path):
            self.refused[path] = why
        return not why

    def _refuse_unread(self, unread: dict[str, str]) -> None:
        """What could not be read there is not empty: the unit that it belongs to stays out."""
        for path, why in unread.items():
            unit = unit_of(path + "/x") or unit_of(path)
            self.refused[path] = f"cannot be read there ({why})"
            if unit:
                self._without(unit)

    def _refuse_incomplete(self) -> None:
        """Units of which a file was refused, and what is not whole yet."""
        for path in list(self.refused):
            if unit := unit_of(path):
                self._without(unit)
        by_unit: dict[str, list[str]] = {}
        for path in self.remote_files:
            if (unit := unit_of(path)) and not is_version(unit):
                by_unit.setdefault(unit, []).append(path)
        for unit, names in by_unit.items():
            if self.host.is_bucket and (other := self.host.unlisted_part(names)):
                self._without(unit)
                self.refused[unit] = f"is not as a manifest there lists it ({other})"
                continue
            if not (missing := adapter_units.missing_part(unit, names)):
                continue
            self._without(unit)
            if local_path(unit).exists() and not adapter_units.is_checkpoint(unit):
                self.refused[unit] = f"lacks {missing} there, so the one here stays"
            else:
                self.unfinished[unit] = f"not whole there ({missing} missing)"

    def _without(self, unit: str) -> None:
        """Take nothing of a unit; '' is none."""
        for path in [p for p in self.remote_files if unit and p.startswith(unit + "/")]:
            del self.remote_files[path]

    def _decide(self, path: str, verify: bool) -> bool:
        """Put `path` where it belongs; False where only the contents can tell."""
        here, remote = self.here[path], self.remote_files[path]
        if here and not verify and self.record.holds(path, here, remote):
            self.same.append(path)
        elif here and here.size == remote.size and remote.seconds in (here.seconds, UNKNOWN_TIME):
            return False
        elif here and here.size == remote.size and is_version(unit_of(path)):
            return False  # a version copied by other means: its times say nothing
        else:
            self.fetch[path] = "changed" if here else "new"
        return True

    def _refuse_other_spellings(self, names_there: list[str]) -> None:
        """Refuse what is here under a name that differs in case or in its Unicode form alone."""
        names = LocalNames()
        for path in dict.fromkeys(unit_of(p) or p for p in names_there):
            top, _, rest = path.partition("/")
            other = names.other_spelling(folder(top), rest)
            if not other or self._is_ours(path):
                continue
            self.remote_files.pop(path, None)
            if unit_of(path + "/x") == path:
                self._without(path)
            self.refused[path] = (
                f"is the same name as {paths.show(folder(top) / other)} here where case is "
                "ignored, as on a Mac"
            )
        self.fetch = {path: what for path, what in self.fetch.items() if path in self.remote_files}

    def _refuse_other_kinds(self) -> None:
        """Refuse a file where a folder is here, and what is below a file here."""
        kinds = LocalKinds()
        for path in [path for path in self.fetch if not self.here[path]]:
            why = kinds.why_blocked(local_path(path), folder(path.partition("/")[0]))
            if why and path in self.remote_files:
                del self.remote_files[path]
                self.refused[unit_of(path) or path] = why
                self._without(unit_of(path))
        self.fetch = {path: what for path, what in self.fetch.items() if path in self.remote_files}

    def _is_ours(self, path: str) -> bool:
        """Whether an earlier sync made the file here: some disks show a name in another form."""
        known, here = self.record.files.get(path), self.here.get(path)
        return bool(known and here) and known[1].split()[1:2] == here.sig.split()[1:2]

    def _settle(self, unsure: list[str]) -> None:
        """Compare the contents of `unsure`, on both sides at once."""
        hashing = local_files.Background(local_files.hash_all, {p: local_path(p) for p in unsure})
        remote_hashes = hashes_on(self.host, {p: self.remote_files[p].size for p in unsure})
        for path, digest in hashing.result("hashing here").items():
            if digest and digest == remote_hashes.get(path):
                self.same.append(path)
                self.record.put(path, digest, self.here[path], self.remote_files[path])
            else:
                self.fetch[path] = "changed"

    def _whole_units(self) -> None:
        """One file of a unit to fetch means all of it; of a version that is here, a conflict."""
        touched = sorted({unit_of(path) for path in self.fetch} - {""})
        self.conflicts = [u for u in touched if is_version(u) and local_path(u).exists()]
        self.lacking: dict[str, list[str]] = {}
        for unit in touched:
            if not is_version(unit) and (lost := self._only_here(unit)):
                self.lacking[unit] = lost
        out = set(self.conflicts) | self.lacking.keys()
        self.units = [u for u in touched if u not in out]
        for path in self.remote_files:
            unit = unit_of(path)
            if unit in out:
                self.fetch.pop(path, None)
            elif unit in self.units:
                self.fetch.setdefault(path, "changed")
        self.same = [path for path in self.same if path not in self.fetch]

    def _only_here(self, unit: str) -> list[str]:
        """The files of the unit here that the host's does not have."""
        root = local_path(unit)
        if root.is_symlink() or not root.is_dir():
            return []
        return sorted(
            name
            for name in (p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())
            if f"{unit}/{name}" not in self.remote_files
            and not exclusions.why_not(name.rpartition("/")[2])
        )

    def lines(self) -> list[str]:
        """The plan as it is printed."""
        lines = [f"plan      down: {self.host.place} -> this checkout"]
        for kind in ("new", "changed"):
            names = sorted(path for path, what in self.fetch.items() if what == kind)
            lines += sync_lines.files_line(kind, names, self.remote_files)
        if self.same:
            lines.append(f"same      {sync_lines.amount(self.remote_files[p] for p in self.same)}")
        return lines + sync_lines.skipped_lines(self.skipped | self.unfinished)

    def amount(self, names: list[str]) -> str:
        """How many files and bytes `names` are there."""
        return sync_lines.amount(self.remote_files[p] for p in names)
