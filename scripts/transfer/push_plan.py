"""What a push does with each file: new, changed, the same, edited there, gone here."""

from __future__ import annotations

from kit import console
from transfer import local_files, sync_lines
from transfer.host import Host
from transfer.listing import UNKNOWN_TIME, HostState, ListedFile, hashes_on
from transfer.local_files import LocalFiles
from transfer.record import TransferRecord

LAST = ("manifest.json", "card.json")  # they vouch for the files beside them


class PushPlan:
    """Each file here is in one of the lists. `edited`: there is a version that we did not send."""

    def __init__(self):
        self.new: list[str] = []
        self.changed: list[str] = []
        self.same: list[str] = []
        self.unsure: list[str] = []  # size and time agree, contents not yet compared
        self.edited: list[str] = []
        self.gone: list[str] = []
        self.blocking: list[str] = []  # a file there and a folder here, or the reverse

    def compare(
        self,
        local: LocalFiles,
        remote_files: dict[str, ListedFile],
        record: TransferRecord,
        verify: bool,
    ) -> None:
        """Put every file into its list, by size, time and signature."""
        for path, here in local.files.items():
            other = remote_files.get(path)
            if other is None:
                self.new.append(path)
            elif record.holds(path, here, other) and not verify:
                self.same.append(path)
            elif here[:3] != other[:3] and (
                other.seconds != UNKNOWN_TIME or here.size != other.size
            ):
                self.changed.append(path)
            else:
                self.unsure.append(path)
        self.edited = [p for p in self.changed if not record.is_ours_there(p, remote_files[p].sig)]
        self.blocking = _blocking(self.new, remote_files)
        self._find_gone(local, remote_files, record)

    def _find_gone(
        self, local: LocalFiles, remote_files: dict[str, ListedFile], record: TransferRecord
    ) -> None:
        moved = set(self.blocking)
        missing = [p for p in record.files if p not in local.files and local.covers(p)]
        self.gone = [
            p
            for p in missing
            if p in remote_files
            and record.is_ours_there(p, remote_files[p].sig)
            and moved.isdisjoint([p, *_above(p)])
        ]
        for path in missing:
            if path not in remote_files:
                record.drop(path)

    def settle(
        self,
        host: Host,
        local: LocalFiles,
        remote_files: dict[str, ListedFile],
        record: TransferRecord,
    ) -> None:
        """Compare the contents of what `unsure` holds, on both sides at once."""
        here = {p: local.place[p] for p in self.unsure}
        hashing = local_files.Background(local_files.hash_all, here)
        remote = hashes_on(host, {p: remote_files[p].size for p in self.unsure})
        for path, digest in hashing.result("hashing here").items():
            if digest and digest == remote.get(path):
                self.same.append(path)
                record.put(path, digest, local.files[path], remote_files[path])
            else:
                self.changed.append(path)
                if not record.is_ours_there(path, remote_files[path].sig):
                    self.edited.append(path)
        self.unsure = []

    @property
    def sent(self) -> list[str]:
        """What has to travel, the files that vouch for others last."""
        return sorted(self.new + self.changed, key=lambda p: (p.endswith(LAST), p))

    def lines(self, host: Host, local: LocalFiles, state: HostState, removing: bool) -> list[str]:
        """The plan as it is printed."""
        lines = [f"plan      up: this checkout -> {host.place}"]
        lines += sync_lines.files_line("new", sorted(self.new), local.files)
        lines += sync_lines.files_line("changed", sorted(self.changed), local.files)
        if self.same:
            lines.append(f"same      {sync_lines.amount(local.files[p] for p in self.same)}")
        if self.edited:
            names = sync_lines.names(sorted(self.edited))
            lines.append(f"kept      {names}: not as we sent it; that version goes to .replaced/")
        if self.blocking:
            names = sync_lines.names(self.blocking)
            lines.append(f"kept      {names}: a file there, a folder here, or the reverse")
        if self.gone:
            what = "moved to .replaced/ there" if removing else "left there; --delete N moves them"
            remote_files = state.listing().files
            for line in sync_lines.files_line("gone here", sorted(self.gone), remote_files):
                lines.append(f"{line} ({what})")
        return lines + sync_lines.skipped_lines(local.skipped)

    def to_remove(self, local: LocalFiles, most: int | None) -> list[str]:
        """The files that --delete `most` moves aside; a Problem where that is not safe."""
        if most is None or not self.gone:
            return []
        if len(self.gone) > most:
            raise console.Problem(
                f"{len(self.gone)} files are gone here and --delete allows {most}",
                f"look at them with --dry-run, then --delete {len(self.gone)}",
            )
        for folder in sorted({p.rpartition("/")[0] for p in self.gone}):
            if folder and not local.has_files_in(folder):
                raise console.Problem(
                    f"{folder} is empty here, so nothing is removed there",
                    "bring its files back, or remove the folder on the host by hand",
                )
        return sorted(self.gone)


def _blocking(new: list[str], remote_files: dict[str, ListedFile]) -> list[str]:
    """What is a file there where `new` needs a folder, or the reverse."""
    wanted = {folder for path in new for folder in _above(path)}
    folders = {folder for path in remote_files for folder in _above(path)} if new else set()
    return sorted((wanted & remote_files.keys()) | (folders & set(new)))


def _above(path: str) -> list[str]:
    """The folders that `path` lies in."""
    return [path[:n] for n, letter in enumerate(path) if letter == "/"]
