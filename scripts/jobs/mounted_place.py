#!/usr/bin/env python3
"""Run one job on a cloud machine whose run is kept in a bucket that is mounted there.

    .venv-remote/bin/python scripts/jobs/mounted_place.py .jobs/NAME /ckpt

A mount cannot append and may lose what is being written, so the run lies on the machine's own disk.
Its finished parts go to the mount as they appear, read back, then a manifest with their SHA-256:
the layout of a bucket that `make sync-down BUCKET=…` reads (transfer/bucket.py). A machine that
takes the job over fetches them back first, only what the manifest vouches for, and goes on.

Exit codes: the job's own; 0 where its limit ended it, so that the cloud starts no other machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from jobs import contract, keeper, life  # noqa: E402
from kit import console, paths  # noqa: E402
from transfer import adapter_units, local_files  # noqa: E402
from transfer.adapter_units import unit_of  # noqa: E402
from transfer.bucket import MANIFESTS  # noqa: E402
from transfer.bucket_stage import VOUCHING, two_hashes  # noqa: E402

EVERY_SECONDS = float(os.environ.get("TANDEM_KEEP_SECONDS") or 30)
KEEP_LAST = 2  # checkpoints in the bucket
JOB_FILES = ("engine.json", "lives.jsonl", life.FILE, "log.txt", "exit")
BLOCK = 1 << 20


class MountedPlace:
    """The bucket's folder, and what a manifest there lists: {path: [SHA-256, signature]}."""

    def __init__(self, root: Path, job: contract.Job, folder: Path):
        self.root, self.job, self.folder = root, job, folder
        self.run = paths.folder("runs") / job.run_id
        self.prefix = f"adapters/runs/{job.run_id}/"
        self.manifest = root / MANIFESTS / f"cloud-{job.name}.json"
        self.listed: dict[str, list[str]] = {}
        self.seen: dict[str, str] = {}  # signature here of what was sent

    def here(self, path: str) -> Path:
        """Where a file of the bucket lies on this machine."""
        if path.startswith(self.prefix):
            return self.run / path.removeprefix(self.prefix)
        return self.folder / path.rpartition("/")[2]

    def restore(self) -> int:
        """Fetch back what an earlier machine left, by its SHA-256; how many files came."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            listed = json.loads(self.manifest.read_text(encoding="utf-8"))["files"]
            self.listed = {path: list(line) for path, line in listed.items() if len(line) == 2}
        if (self.run / "status.json").exists():
            return 0  # the same machine starts it again
        stage = self.run.parent / ".incoming" / self.job.run_id
        shutil.rmtree(stage, ignore_errors=True)
        good = {p for p in self.listed if self._is_known(p) and self._fetch(p, stage / p)}
        bad = {unit_of(p) for p in self.listed if p not in good} - {""}
        restored = sorted(p for p in good if unit_of(p) not in bad)
        for path in restored:
            self.here(path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / path, self.here(path))
        shutil.rmtree(stage, ignore_errors=True)
        return len(restored)

    def _is_known(self, path: str) -> bool:
        parts = path.split("/")
        if "" in parts or ".." in parts or "." in parts:
            return False
        mine = path.startswith((self.prefix, f".jobs/{self.job.name}/"))
        return mine and parts[-1] != "engine.json"

    def _fetch(self, path: str, target: Path) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return copy(self.root / path, target) == self.listed[path][0]
        except OSError:
            return False

    def save(self) -> None:
        """Bring what is finished and new to the bucket, what vouches for others last."""
        files = self._files()
        changed = [
            p for p, f in files.items() if self.seen.get(p) != f.sig and not self._is_there(p)
        ]
        for path in sorted(changed, key=lambda p: (p.endswith(VOUCHING), p)):
            self._send(path)
        passing = (f"{self.prefix}checkpoints/", f".jobs/{self.job.name}/")
        removed = [p for p in self.listed if p.startswith(passing) and p not in files]
        if changed or removed:
            for path in removed:
                del self.listed[path]
            publish_mounted(self.manifest, json.dumps({"files": self.listed}).encode())
        for path in sorted(removed, key=lambda p: not p.endswith(adapter_units.TRAINER_STATE)):
            (self.root / path).unlink(missing_ok=True)
        self.seen = {path: file.sig for path, file in files.items()}

    def _files(self) -> dict[str, local_files.ListedFile]:
        """The files that may go: no checkpoint that is being written, and the newest alone."""
        whole = [p for p in keeper.checkpoints(self.run) if (p / "trainer_state.json").exists()]
        kept = {p.name for p in whole[-KEEP_LAST:]}
        files = {}
        for name, listed in local_files.walk(str(self.run), {}):
            parts = name.split("/")
            if parts[0] != "checkpoints" or (len(parts) > 2 and parts[1] in kept):
                files[self.prefix + name] = listed
        for name in JOB_FILES:
            if listed := local_files.look(self.folder / name):
                files[f".jobs/{self.job.name}/{name}"] = listed
        return files

    def _is_there(self, path: str) -> bool:
        """Whether the bucket has just this content, as after a restore."""
        if path not in self.listed or not (self.root / path).exists():
            return False
        return self.listed[path] == _line(self.here(path))

    def _send(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # a checkpoint that the trainer just dropped
            target = self.root / path
            part = target.with_name(f".{target.name}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            copy(self.here(path), part)
            line = _line(part)  # read back: what the manifest says is what lies there
            os.replace(part, target)
            self.listed[path] = line


def _line(file: Path) -> list[str]:
    digest, checksum = two_hashes(str(file), "md5")
    return [digest, f"{file.stat().st_size} md5:{checksum}"]


def copy(source: Path, target: Path) -> str:
    """Copy a file; the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as f, target.open("wb") as out:
        while block := f.read(BLOCK):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def publish_mounted(file: Path, content: bytes) -> None:
    """Write a file whole: on a mount there is no folder to fsync."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    os.replace(part, file)


def main(argv: list[str] | None = None) -> int:
    folder, root = map(Path, sys.argv[1:] if argv is None else argv)
    job = contract.read(folder)
    place = MountedPlace(root, job, folder)
    if came := place.restore():
        console.note(f"{job.run_id}: {came} files came back from {root}")
    (folder / "exit").unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("supervisor.py")), str(folder)]
    with subprocess.Popen(command, start_new_session=True) as process:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, lambda number, _: process.send_signal(number))
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(EVERY_SECONDS)
                break
            try:
                place.save()
            except OSError as error:
                console.warn(f"{root}: {error.strerror or error}; it is tried again")
    place.save()
    return code_for_the_cloud(folder, code)


def code_for_the_cloud(folder: Path, code: int) -> int:
    """The job's exit code; GOOD at its limit: a code that is recovered from would pay anew."""
    with contextlib.suppress(OSError):
        lives = contract.lives((folder / "lives.jsonl").read_text(encoding="utf-8"))
        if lives and lives[-1].get("why") == "budget":
            console.note("its limit ended it: saved; a larger BUDGET goes on")
            return console.GOOD
    return code


if __name__ == "__main__":
    console.run(main)
