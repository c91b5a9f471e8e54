"""What earlier syncs verified, and the locks that keep two syncs apart."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kit import console, lock, paths, publish
from transfer.host import Host
from transfer.listing import ListedFile, records_of

NOTHING = ("", "", "")


def folder() -> Path:
    """Where records and locks lie: .cache/transfer in the working folder. It may not exist yet."""
    return paths.workdir() / ".cache" / "transfer"


class TransferRecord:
    """{path: (SHA-256, signature here, signature there)} of everything verified before.

    Only a cache: without it, or with a damaged one, contents are compared again.
    """

    def __init__(self, host: Host, direction: str):
        self.path = folder() / f"{direction}-{host.ident}.json"
        self.files: dict[str, list[str]] = {}
        self.listing = ""  # the digest of a listing there in which all these signatures hold
        self.dirty = False
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
            body = json.loads(self.path.read_text(encoding="utf-8"))
            files = {path: sigs for path, sigs in body["files"].items() if len(sigs) == 3}
            self.files, self.listing = files, str(body["listing"])

    def all_hold(
        self, local: dict[str, ListedFile], covered: Callable[[str], bool], digest: str
    ) -> bool:
        """Whether nothing at all has been touched since: one comparison for the whole host."""
        if not digest or digest != self.listing:
            return False
        return sum(map(covered, self.files)) == len(local) and all(
            self.files.get(path, NOTHING)[1] == file.sig for path, file in local.items()
        )

    def holds(self, path: str, here: ListedFile, remote: ListedFile) -> bool:
        """Whether these two were equal once and neither has been touched since."""
        return list(self.files.get(path, NOTHING)[1:]) == [here.sig, remote.sig]

    def is_ours_there(self, path: str, sig: str) -> bool:
        """Whether what lies there is what an earlier sync left, or compared as equal."""
        return self.files.get(path, NOTHING)[2] == sig

    def is_ours_here(self, path: str, sig: str, moved: bool = False) -> bool:
        """The same for what lies here. `moved`: a rename changed its ctime, which is left out."""
        known = self.files.get(path, NOTHING)[1]
        return known.split()[:4] == sig.split()[:4] if moved else known == sig

    def records_there(self) -> dict[bytes, tuple[str, ListedFile]]:
        """The records of a listing there in which all the signatures hold."""
        return records_of((path, sig) for path, (_, _, sig) in self.files.items())

    def put(
        self, path: str, digest: str, here: ListedFile | None, remote: ListedFile | None
    ) -> None:
        """Remember that both sides hold `digest` at `path`."""
        known = [digest, here.sig, remote.sig] if here and remote else None
        if known and self.files.get(path) != known:
            self.files[path] = known
            self.dirty = True

    def drop(self, path: str) -> None:
        """Forget `path`."""
        self.dirty |= self.files.pop(path, None) is not None

    def save(self, remote_files: dict[str, ListedFile] | None = None, digest: str = "") -> None:
        """Publish it if anything changed. `there` and `digest`: the listing there as it is now."""
        known = remote_files is not None and all(
            path in remote_files and remote_files[path].sig == sig
            for path, (_, _, sig) in self.files.items()
        )
        listing = digest if known else ""
        if self.dirty or listing != self.listing:
            with publish.file(self.path, durable=False) as f:
                f.write(json.dumps({"files": self.files, "listing": listing}))


@contextlib.contextmanager
def only_one(record: TransferRecord, host: Host) -> Iterator[None]:
    """Hold this transfer's lock: a second one of the same direction and host ends at once."""
    with lock_file(record.path.with_suffix(".lock"), wait=False) as held:
        if not held:
            raise console.Problem(
                f"another sync with {host.place} is running", "wait for it to end"
            )
        yield


@contextlib.contextmanager
def publishing() -> Iterator[None]:
    """Hold the lock under which files get their final name here, whichever host they came from."""
    with lock_file(folder() / "publishing.lock", wait=True):
        yield


@contextlib.contextmanager
def lock_file(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of `path`; False where another process has it and `wait` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        held = lock.try_lock(file.fileno(), paths.show(path.parent))
        while wait and not held:
            time.sleep(0.05)
            held = lock.try_lock(file.fileno(), paths.show(path.parent))
        yield held
