"""A bucket as the keeper's second place: one run there, as push and pull know it.

What the keeper fetched goes on to BUCKET under the names that it has here, with the job's
description; a checkpoint counts there once a manifest lists all of it. `resume` on another laptop
fetches the run from the bucket first. Checkpoints that the keeper dropped here are deleted there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from jobs import contract
from kit import console, paths
from transfer import local_files, sync_lines
from transfer.adapter_units import TRAINER_STATE
from transfer.bucket import BucketHost, BucketState
from transfer.local_files import LocalFiles
from transfer.place import open_place
from transfer.push import Push

PLACES = ("adapters", ".jobs")
DESCRIPTION_BYTES = 1 << 20
OPTIONS = argparse.Namespace(dry_run=False, verify=False, kit_only=False, delete=None)


class RunFiles(LocalFiles):
    """The files of one run here, and its job's description."""

    def __init__(self, run_id: str, job_file: Path):
        self.files, self.place, self.skipped, self.kit_only = {}, {}, {}, False
        self.below = f"adapters/runs/{run_id}/"
        self._folder(paths.folder("runs") / run_id, self.below.rstrip("/"))
        if listed := local_files.look(job_file):
            name = description_name(job_file.stem)
            self.files[name], self.place[name] = listed, str(job_file)

    def covers(self, path: str) -> bool:
        """Whether `path` is of this run."""
        return path.startswith(self.below)

    def groups(self, names: list[str]) -> dict[tuple[Path, str], list[str]]:
        """The files by their folder: the description has another name here than there."""
        grouped: dict[tuple[Path, str], list[str]] = {}
        for name in names:
            folder, _, last = name.rpartition("/")
            grouped.setdefault((Path(self.place[name]).parent, folder), []).append(last)
        return grouped


def description_name(job_name: str) -> str:
    """Where a job's description lies in a bucket: the file here has the same last name."""
    return f".jobs/{job_name}.json"


class RunPush(Push):
    """Sends one run to a bucket; prints nothing where nothing was sent."""

    direction = "keep"

    def __init__(self, host: BucketHost, run_id: str, job_file: Path):
        super().__init__(host, OPTIONS)
        self.run_id, self.job_file = run_id, job_file

    def _listed(self) -> BucketState:
        return self.host.listing(PLACES)

    def _files_here(self) -> LocalFiles:
        return RunFiles(self.run_id, self.job_file)

    def _once(self) -> None:
        super()._once()
        old = [path for path in self.plan.gone if "/checkpoints/" in path]
        if old:  # the keeper dropped them here
            state = [path for path in old if path.endswith(TRAINER_STATE)]
            for names in (state, [path for path in old if path not in state]):
                self.host.delete(names)  # without its state a checkpoint is none
            for path in old:
                self.record.drop(path)
            self.record.save()

    def _lines(self) -> list[str]:
        return []

    def _sum_up(self, seconds: float) -> None:
        if self.plan.sent:
            files = [self.local.files[p] for p in self.plan.sent if p in self.local.files]
            console.note(
                f"{self.host.place}: {sync_lines.amount(files)} of {self.run_id} are there"
            )


def send(bucket: str, job: contract.Job, job_file: Path) -> None:
    """Bring what is here of a job's run to the bucket. Problem where it fails."""
    with open_place(None, bucket) as host:
        RunPush(host, job.run_id, job_file).run()


def fetch(bucket: str, name: str, job_file: Path) -> None:
    """Bring a job's description and the kept runs here. Misuse where the bucket has no such job."""
    with open_place(None, bucket) as host:
        if description_name(name) not in host.listing(PLACES).listing().files:
            raise console.Misuse(
                f"no job {name} in {host.place}", f"look: rclone lsf {host.at('.jobs')}"
            )
        text = host.ask(["cat", host.object(description_name(name))], limit=DESCRIPTION_BYTES)
    where = f"{bucket}/{description_name(name)}"
    job = contract.parse(text.decode("utf-8", "replace"), where)
    if job.name != name:
        raise console.Problem(
            f"{where}: damaged (its name is {job.name})", "submit the job again under another NAME"
        )
    sync_down("--bucket", bucket)
    job_file.parent.mkdir(parents=True, exist_ok=True)
    job_file.write_bytes(text)


def sync_down(*words: str) -> None:
    """One sync down with checkpoints. Problem with its cause where it failed."""
    command = [str(paths.ROOT / "scripts" / "sync_from_remote.sh"), *words, "--with-checkpoints"]
    env = {k: v for k, v in os.environ.items() if k not in ("HOST", "BUCKET")}
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env
    )
    if done.returncode:
        cause = console.last_line(done.stderr, "sync_from_remote.sh failed")
        raise console.Problem(cause.removeprefix("sync_from_remote.sh: "))
