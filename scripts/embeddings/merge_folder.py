"""The folder beside an output where the next one grows, and its publication.

    with MergeFolder(output) as stage:                 # .wikipedia_merged.pkl.merging/, locked
        stage.begin(plan, resume=True)           # keeps what an interrupted run of this plan left
        ... write stage.path("data") ...
        stage.commit({"data": output, "manifest": manifest})

Several files cannot be renamed at one stroke, so commit() writes down the renames first: from that
moment the new output is the valid one, and whoever opens the MergeFolder next ends an interrupted
publication (`recover`). Before it the old output stays as it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from kit import console, lock, publish

COMMIT, PROGRESS, LOCK = "commit.json", "progress.json", "lock"


def folder_of(output: Path) -> Path:
    """Where `output` is staged."""
    return output.with_name(f".{output.name}.merging")


def recover(output: Path) -> None:
    """End a publication of `output` that was interrupted, if there is one."""
    if (folder_of(output) / COMMIT).exists():
        with MergeFolder(output):
            pass


class MergeFolder:
    """Exclusive use of an output's staging folder.

    On an error the folder goes; on an interrupt (KeyboardInterrupt, SystemExit) it stays for a
    run that resumes.
    """

    def __init__(self, output: Path):
        self.output = Path(output)
        self.folder = folder_of(self.output)
        self.progress: dict[str, Any] = {}

    def path(self, name: str) -> Path:
        return self.folder / name

    def __enter__(self) -> MergeFolder:
        self.lock = self._lock()
        self._roll_forward()
        return self

    def __exit__(self, kind: type | None, error: Any, trace: Any) -> None:
        try:
            if kind is not None and not issubclass(kind, Exception) and self.progress:
                done = len(self.progress.get("done", []))
                console.note(f"interrupted: {done} whole shards are kept for --resume")
            elif self.path(COMMIT).exists():
                pass  # the next MergeFolder ends the publication
            elif kind is not None or not self.path(PROGRESS).exists():
                shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            os.close(self.lock)

    def _lock(self) -> int:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 2  # a killed merge's other process ends in one second
        while True:
            self.folder.mkdir(exist_ok=True)
            try:
                fd = os.open(self.path(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:  # another process has just removed the folder
                continue
            if not lock.try_lock(fd, str(self.folder.parent)):
                os.close(fd)
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise console.Problem(
                    f"{self.output}: another merge is writing it", "wait until it has ended"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(self.path(LOCK))):
                    return fd
            os.close(fd)

    def begin(self, plan: dict[str, Any], resume: bool) -> list[dict[str, Any]]:
        """Start `plan`, and return what an earlier run of the same plan had done of it."""
        plan = json.loads(json.dumps(plan))
        with contextlib.suppress(OSError, ValueError):
            self.progress = json.loads(self.path(PROGRESS).read_text(encoding="utf-8"))
        if resume and not self.progress:
            console.note("nothing to resume; merging from the beginning")
        elif resume and self.progress.get("plan") != plan:
            console.warn("the shards or options changed since the interrupted run; starting over")
        if not resume or self.progress.get("plan") != plan:
            self._empty()
            self.progress = {"plan": plan, "done": []}
        self._save()
        return list(self.progress["done"])

    def done(self, entries: list[dict[str, Any]]) -> None:
        """Note which parts are whole, for a run that resumes."""
        self.progress["done"] = entries
        self._save()

    def _save(self) -> None:
        part = self.path(PROGRESS + ".part")
        part.write_text(json.dumps(self.progress), encoding="utf-8")
        os.replace(part, self.path(PROGRESS))

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def commit(self, renames: dict[str, Path]) -> None:
        """Publish: {staged name: final path}, in this order, the manifest last.

        Final paths lie beside the output. Every staged file was flushed by its writer.
        """
        for name, final in renames.items():
            if final.exists() and final.is_dir() != self.path(name).is_dir():
                kind = "folder" if final.is_dir() else "file"
                raise console.Problem(f"{final}: a {kind} is in the way", "move it away")
        publish.fsync_folder(self.folder)
        publish.json_file(self.path(COMMIT), [[name, path.name] for name, path in renames.items()])
        self._roll_forward()

    def _roll_forward(self) -> None:
        if not self.path(COMMIT).exists():
            return
        for name, final in json.loads(self.path(COMMIT).read_text(encoding="utf-8")):
            with contextlib.suppress(FileNotFoundError):  # renamed before the interruption
                self._replace(self.path(name), self.output.with_name(final))
        publish.fsync_folder(self.output.parent)
        self._empty()

    def _replace(self, staged: Path, final: Path) -> None:
        if staged.is_dir() and final.is_dir():  # folders cannot be replaced at one stroke
            old = self.path("old")
            shutil.rmtree(old, ignore_errors=True)
            os.rename(final, old)
        os.replace(staged, final)
