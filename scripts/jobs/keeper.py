"""Brings finished checkpoints back while a job runs, and takes a kept run to another host.

A host that vanishes for ever costs at most one checkpoint interval: what was fetched is whole and
verified by content (transfer/pull), and `resume --host gpu2` goes on there from it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

from jobs import contract, engines, second_place, submission
from kit import console, paths, publish
from transfer.host import Host, ScriptFailed, quote
from transfer.retries import wait_before

TRIES_ONCE = 4  # a file of a run that goes on may change while it is fetched
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Takes a run that came as a tar file into adapters/runs, once every file's SHA-256 is right.
UNPACK = """
CDPATH= cd {root} || exit 97
[ ! -e adapters/runs/{run}/status.json ] || exit 93
rm -rf .incoming/run-{run} && mkdir -p .incoming/run-{run} adapters/runs || exit 1
tar xf - -C .incoming/run-{run} || exit 1
.venv-remote/bin/python - .incoming/run-{run} <<'CHECK' || exit 92
import hashlib, json, pathlib, sys
root = pathlib.Path(sys.argv[1])
wanted = json.loads((root / ".manifest.json").read_text())
for name, digest in wanted.items():
    if hashlib.sha256((root / name).read_bytes()).hexdigest() != digest:
        sys.exit(f"{{name}} differs")
(root / ".manifest.json").unlink()
CHECK
mv .incoming/run-{run} adapters/runs/{run}
"""


def keep(host: Host, name: str, settings: Any, once: bool, bucket: str = "") -> int:
    """Fetch what is finished every few seconds until the job is over; a lost link is waited out.

    bucket: a second place that gets all of it, too.
    """
    job, _ = submission.required(host, name)
    remember(job)
    lost = 0
    while True:
        try:
            over = engines.engine_of(job.engine).state(host, job).over
            fetch_finished(host.name, job, settings.keep_last)
            lost = 0
        except console.Problem as problem:
            lost += 1
            if once and lost >= TRIES_ONCE:
                raise
            pause = wait_before(lost)
            console.warn(f"{problem}; what is here stays; again in {pause:.0f} s")
            time.sleep(pause)
            continue
        if bucket and not _in_second_place(bucket, job, last=once or over):
            over = False  # it is tried again
        if over or once:
            break
        time.sleep(settings.every_seconds)
    kept = checkpoints(paths.folder("runs") / job.run_id)
    names = ", ".join(p.name for p in kept) or "no checkpoint yet"
    console.result(f"{job.run_id}: {names}")
    return console.GOOD


def fetch_finished(host_name: str, job: contract.Job, keep_last: int, bucket: str = "") -> None:
    """Fetch what is finished of a job's run, keep the newest; then on to the bucket, if any."""
    second_place.sync_down(host_name)
    prune(paths.folder("runs") / job.run_id, keep_last)
    if bucket:
        second_place.send(bucket, job, kept_file(job.name))


def _in_second_place(bucket: str, job: contract.Job, last: bool) -> bool:
    """Bring the run to the bucket, too; a failure that is not the last word is warned about."""
    try:
        second_place.send(bucket, job, kept_file(job.name))
    except console.Problem as problem:
        if last or problem.code == console.MISUSED:
            raise
        console.warn(f"{problem}; what is here stays")
        return False
    return True


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run that are here, oldest first."""
    folders = [p for p in run.glob("checkpoints/checkpoint-*") if CHECKPOINT.fullmatch(p.name)]
    return sorted(folders, key=lambda p: int(p.name.rpartition("-")[2]))


def prune(run: Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints that are here."""
    for old in checkpoints(run)[:-keep_last]:
        shutil.rmtree(old)


def kept_file(name: str) -> Path:
    """Where a job's description is kept here."""
    return paths.workdir() / ".cache" / "jobs" / f"{name}.json"


def remember(job: contract.Job) -> None:
    """Keep the job's description here, for the day its host is gone."""
    with publish.file(kept_file(job.name), "wb") as f:
        f.write(job.to_json())


def take_to(host: Host, name: str, bucket: str = "") -> contract.Job:
    """Send a kept run, from the bucket where one is given, to another host; the job that goes on
    with it there."""
    file = kept_file(name)
    if bucket:
        second_place.fetch(bucket, name, file)
    if not file.is_file():
        raise console.Misuse(
            f"no job {name} at {host.place}, and none was kept here",
            f"{contract.make_command('job-run', host.name, name)} starts one",
        )
    job = contract.parse(file.read_text(encoding="utf-8"), str(file))
    run = paths.folder("runs") / job.run_id
    latest = checkpoints(run)[-1:]
    if not latest:
        raise console.Problem(
            f"no checkpoint of {job.run_id} is here",
            f"{contract.make_command('job-run', host.name, 'NEW')} begins anew under another name",
        )
    try:
        host.run(UNPACK.format(root=quote(host.root), run=job.run_id), packed(run, latest[0]))
    except ScriptFailed as failed:
        if failed.exit_code == 92:
            raise console.Problem(f"{host.name}: the run did not arrive whole", "again") from None
        if failed.exit_code != 93:  # the run is there already: an earlier try sent it
            raise
    return job


def packed(run: Path, checkpoint: Path) -> bytes:
    """A tar file of the run with one checkpoint, and a manifest of every file's SHA-256."""
    files = [
        run / n for n in ("config.yaml", "run.json", "status.json", "metrics.jsonl", "log.txt")
    ]
    files = [f for f in files if f.is_file()] + sorted(
        p for p in checkpoint.rglob("*") if p.is_file()
    )
    manifest = {f.relative_to(run).as_posix(): publish.sha256(f) for f in files}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for file in files:
            tar.add(file, file.relative_to(run).as_posix(), recursive=False)
        text = json.dumps(manifest).encode()
        info = tarfile.TarInfo(".manifest.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return data.getvalue()
