"""Putting fetched files in place here, so that nothing that lay there is lost.

What is replaced swaps its name with the new file and lies in .replaced/ from that moment; only
what an earlier sync brought, by its signature, is dropped afterwards. On another disk than the
staging folder the new file waits beside its place first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from pathlib import Path

from kit import publish
from transfer import local_files
from transfer.listing import ListedFile
from transfer.name_swap import exchange


class Keeper:
    """`.replaced/STAMP/` of one folder here (adapters/, reports/): what a sync replaced."""

    def __init__(self, top: Path):
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.top, self.kept = top, top / ".replaced" / f"{stamp}-{os.urandom(2).hex()}"

    def place_new(self, staged: Path, final: Path) -> bool:
        """Give a staged file or folder its name; False where something has it by now."""
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final):
            return False
        waiting = self._on_same_disk(staged, final)
        try:
            return self._take_name(waiting, final)
        finally:
            if waiting != staged and os.path.lexists(waiting):
                _delete(waiting)

    def _take_name(self, waiting: Path, final: Path) -> bool:
        try:
            if waiting.is_dir():
                os.rename(waiting, final)  # fails where a folder that is not empty has the name
            else:
                os.link(waiting, final)
                waiting.unlink()
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            os.rename(waiting, final)  # a disk without hard links
        return True

    def replace(self, staged: Path, final: Path) -> tuple[ListedFile | None, Path]:
        """`staged` takes the name `final`; (what lay there just before, where it lies now)."""
        waiting = self._on_same_disk(staged, final)
        kept = self.kept / final.relative_to(self.top)
        kept.parent.mkdir(parents=True, exist_ok=True)
        before = local_files.look(final)
        if waiting is staged:
            os.rename(staged, kept)
            exchange(kept, final)
        else:
            exchange(waiting, final)
            if os.path.lexists(waiting):
                _move(waiting, kept)
        return before, kept

    def _on_same_disk(self, staged: Path, final: Path) -> Path:
        """`staged` itself, or its copy next to `final` where that is another disk."""
        if _device(staged) == _device(final.parent):
            return staged
        waiting = final.with_name(f".{final.name[:200]}.part")
        if os.path.lexists(waiting):  # a killed sync left it: it may be what was replaced
            kept = self.kept / "interrupted" / final.relative_to(self.top)
            kept.parent.mkdir(parents=True, exist_ok=True)
            _move(waiting, kept)
        copy = shutil.copytree if staged.is_dir() else shutil.copy2
        copy(staged, waiting)
        flush(waiting)
        return waiting

    def drop(self, kept: Path) -> None:
        """Remove what an earlier sync brought and this one replaced."""
        kept.unlink(missing_ok=True)
        for folder in kept.parents:
            if folder == self.top:
                break
            with contextlib.suppress(OSError):
                folder.rmdir()


def _device(path: Path) -> int:
    return os.stat(path).st_dev


def _move(source: Path, target: Path) -> None:
    """A rename, or a copy that is whole before the source goes."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = target.with_name(f".{target.name[:200]}.part")
        shutil.rmtree(part, ignore_errors=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, part)
        os.rename(part, target)
        _delete(source)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def flush(path: Path) -> None:
    """fsync a file, or every file and folder below a folder."""
    if not path.is_dir():
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        return
    for folder, _, names in os.walk(path):
        for name in names:
            flush(Path(folder, name))
        publish.fsync_folder(folder)
