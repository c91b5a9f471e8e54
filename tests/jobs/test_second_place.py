"""The keeper with a bucket as its second place: a laptop and a host are lost, the run continues."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from jobs.contract import Job
from kit import console
from support import adapter_runs
from support.bucket_server import SECRET, AnsweringBucket, BucketServer, find_rclone
from support.checkout import ROOT
from support.processes import wait_until

pytestmark = pytest.mark.slow
RUN = "20261127-train"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    program = find_rclone()
    if not program:
        pytest.skip("no rclone with `serve s3`; apt-get install rclone (1.65 or newer)")
    made = BucketServer(program, tmp_path_factory.mktemp("bucket"))
    yield made
    made.stop()


class Keeping:
    """A folder host with a job whose run has checkpoints, and laptops."""

    def __init__(self, server, place):
        self.server, self.place, self.bucket = server, place, f"s3:bkt/{place.name}"
        self.host = self.a_host("gpu1")
        job = Job("train", "folder", ("sh", "-c", "exit 0"), run_id=RUN)
        folder = self.host / "tandem" / ".jobs" / "train"
        folder.mkdir(parents=True)
        (folder / "engine.json").write_bytes(job.to_json())
        (folder / "exit").write_text("143\n")
        self.run = self.host / "tandem" / "adapters" / "runs" / RUN
        self.run.mkdir(parents=True)
        (self.run / "status.json").write_text('{"state": "stopped", "step": 100}')
        (self.run / "config.yaml").write_text("seed: 1\n")
        for step in (50, 100):
            self.checkpoint(step)

    def a_host(self, name):
        there = self.place / name / "tandem"
        there.mkdir(parents=True)
        (there / "scripts").symlink_to(ROOT / "scripts")
        (there / ".venv-remote").symlink_to(sys.prefix)
        return there.parent

    def checkpoint(self, step):
        folder = self.run / "checkpoints" / f"checkpoint-{step}"
        adapter_runs.peft_folder(folder, {"lora_A": np.full((1, 2), step, np.float32)})
        (folder / "optimizer.pt").write_text(f"moments of {step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))

    def jobs(self, verb, *words, laptop="laptop", host=None, fails=0):
        work = self.place / laptop
        work.mkdir(exist_ok=True)
        env = os.environ | {"TANDEM_WORKDIR": str(work), "RCLONE": self.server.rclone,
                            "RCLONE_CONFIG": str(self.server.config),
                            "TANDEM_RETRY_WAIT": "0.02"}  # fmt: skip
        for name in ("HOST", "BUCKET"):
            env.pop(name, None)
        command = [sys.executable, str(ROOT / "scripts" / "jobs.py"), verb, "train"]
        command += ["--host", str(host or self.host), *words]
        done = subprocess.run(
            command, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        output = done.stdout + done.stderr
        assert done.returncode == fails and "Traceback" not in output and SECRET not in output, (
            output
        )
        return output

    def there(self):
        """The steps whose checkpoints are whole in the bucket."""
        root = self.server.path(f"{self.place.name}/adapters/runs/{RUN}/checkpoints")
        return sorted(int(p.parent.name[11:]) for p in root.glob("*/trainer_state.json"))


@pytest.fixture
def keeping(server, tmp_path):
    return Keeping(server, tmp_path)


def test_laptop_and_host_are_lost_and_the_run_goes_on_from_the_bucket(keeping):
    output = keeping.jobs("keep", "--once", "--bucket", keeping.bucket)
    assert "checkpoint-50, checkpoint-100" in output and keeping.there() == [50, 100]
    keeping.checkpoint(150)
    keeping.jobs("keep", "--once", "--bucket", keeping.bucket)
    assert keeping.there() == [100, 150]
    shutil.rmtree(keeping.host)
    shutil.rmtree(keeping.place / "laptop")
    other = keeping.a_host("gpu2")
    keeping.jobs("resume", "--bucket", keeping.bucket, laptop="new", host=other)
    job = other / "tandem" / ".jobs" / "train"
    wait_until((job / "exit").exists)
    assert (job / "exit").read_text() == "0\n"
    run = other / "tandem" / "adapters" / "runs" / RUN
    weights = run / "checkpoints" / "checkpoint-150" / "adapter_model.safetensors"
    assert np.all(load_file(weights)["lora_A"] == 150)


def test_a_checkpoint_that_is_half_in_the_bucket_does_not_come(keeping):
    keeping.jobs("keep", "--once", "--bucket", keeping.bucket)
    root = keeping.server.path(f"{keeping.place.name}/adapters/runs/{RUN}/checkpoints")
    (root / "checkpoint-100" / "optimizer.pt").write_text("somebody else's")
    other = keeping.a_host("gpu2")
    output = keeping.jobs("resume", "--bucket", keeping.bucket, laptop="new", host=other, fails=1)
    assert "is not as a manifest there lists it" in output
    assert not (
        keeping.place / "new" / "adapters/runs" / RUN / "checkpoints/checkpoint-100"
    ).exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("keep", "--once", "--bucket", "nope:x"), 2, "no remote of the name nope"),
        (("keep", "--once", "--bucket", "down:bkt/x"), 1, "the connection failed"),
        (("keep", "--once", "--bucket", ":s3,secret_access_key=x:b"), 2, "keys do not belong"),
        (("resume", "--bucket", "s3:bkt/nothing", "--host"), 2, "no job train in s3:bkt/nothing"),
    ],
)
def test_a_second_place_that_cannot_be_is_one_line_and_what_came_stays(keeping, words, code, line):
    if words[-1] == "--host":
        words = (*words, str(keeping.a_host("gpu2")))
    output = keeping.jobs(*words, fails=code).strip()
    assert line in output and "\n" not in output
    if words[0] == "keep" and code == 1:
        kept = keeping.place / "laptop" / "adapters" / "runs" / RUN / "checkpoints"
        assert len(list(kept.iterdir())) == 2


def test_a_description_of_another_job_in_the_bucket_is_damaged(monkeypatch, tmp_path):
    """Whoever edits it there does not choose the job that a resume begins."""
    from jobs import second_place

    listed = json.dumps([{"Path": ".jobs/train.json", "Size": 1}]).encode()
    store = AnsweringBucket(
        lsjson=listed, cat=Job("other", "folder", ("sh", "-c", "x"), run_id=RUN).to_json()
    )
    monkeypatch.setattr(second_place, "open_place", lambda *_: contextlib.nullcontext(store))
    monkeypatch.setattr(second_place, "sync_down", lambda *_: None)
    with pytest.raises(console.Problem, match=r"train\.json: damaged \(its name is other\)"):
        second_place.fetch("drive:x", "train", tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()
