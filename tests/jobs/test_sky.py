"""SkyPilot: the task file, what its machine does with the mounted bucket, and sky's own reading."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import psutil
import pytest
import yaml

from config.schemas.jobs import SkySection
from jobs import contract, mounted_place
from jobs.contract import Job
from jobs.engines import sky
from support import tool_environment
from support.checkout import ROOT
from support.processes import wait_until

RUN = "20261127-train"
JOB = Job("train", "sky", (".venv-remote/bin/python", "scripts/lora_trainer.py", "--set", "a=b c"),
          run_id=RUN, cap_seconds=3600.0, rate=1.9, budget=2.0)  # fmt: skip
BUCKET = SkySection(bucket="s3://my-bucket")


def test_the_task_holds_price_recovery_and_the_end_of_a_machine_that_is_left_over():
    made = sky.task(JOB, BUCKET)["resources"]
    assert made["max_hourly_cost"] == 1.9 and made["autostop"] == {"idle_minutes": 10, "down": True}
    assert made["job_recovery"]["recover_on_exit_codes"] == [140, 143]
    assert made["accelerators"] == "H100:1"
    eight = dataclasses.replace(JOB, gpus=8)
    assert sky.task(eight, BUCKET)["resources"]["accelerators"] == "H100:8"


def test_the_machine_runs_the_supervisor_with_the_run_in_the_bucket():
    last = sky.run_lines(JOB, has_bucket=True)[-1]
    assert last == ("exec timeout --signal=TERM --kill-after=60 4500 .venv-remote/bin/python "
                    "scripts/jobs/mounted_place.py .jobs/train /ckpt")  # fmt: skip
    unlimited = dataclasses.replace(JOB, cap_seconds=0.0)
    assert sky.run_lines(unlimited, has_bucket=False)[-1] == (
        "exec .venv-remote/bin/python scripts/jobs/supervisor.py .jobs/train"
    )
    assert "hf download a/b --local-dir models/b" in sky.setup_lines("b", "a/b")[-1]
    assert len(sky.setup_lines("", "")) == 2


# --- the machine ------------------------------------------------------------------------------

# A trainer of 40 steps with a checkpoint every 10; HOLD names the step where it waits for ever.
TRAINER = """
import json, os, signal, sys, time
from pathlib import Path
run = Path("adapters/runs") / sys.argv[-1]
run.mkdir(parents=True, exist_ok=True)
states = sorted(int(p.parent.name[11:]) for p in run.glob("checkpoints/*/trainer_state.json"))
step = states[-1] if states else 0
(run / "began").write_text((run / "began").read_text() + f" {step}" if step else f"{step}")
hold = int(os.environ.get("HOLD") or 0)
def stop(number, frame):
    (run / "status.json").write_text('{"state": "stopped"}')
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
while step < 40:
    step += 1
    (run / "status.json").write_text(json.dumps({"state": "running", "step": step}))
    if step % 10 == 0:
        folder = run / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "optimizer.pt").write_text(f"moments of {step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    while step == hold:
        time.sleep(0.02)
(run / "final").mkdir(exist_ok=True)
(run / "final" / "adapter_config.json").write_text("{}")
(run / "final" / "adapter_model.safetensors").write_text("weights")
(run / "status.json").write_text('{"state": "completed"}')
"""


class Cloud:
    """A bucket's folder, and machines that come and go."""

    def __init__(self, place):
        self.place, self.bucket = place, place / "ckpt"
        self.bucket.mkdir()

    def machine(self, name, hold=0, **changes):
        """A fresh machine with the job's process."""
        root = self.place / name
        (root / ".jobs" / "train").mkdir(parents=True)
        (root / "trainer.py").write_text(TRAINER)
        job = dataclasses.replace(JOB, words=(sys.executable, "trainer.py"), **changes)
        (root / ".jobs" / "train" / "engine.json").write_bytes(job.to_json())
        env = os.environ | {"TANDEM_WORKDIR": str(root), "TANDEM_KEEP_SECONDS": "0.05",
                            "TANDEM_SUPERVISOR_SECONDS": "0.05", "HOLD": str(hold)}  # fmt: skip
        command = [sys.executable, str(ROOT / "scripts/jobs/mounted_place.py")]
        return subprocess.Popen(
            [*command, ".jobs/train", str(self.bucket)], cwd=root, env=env, start_new_session=True
        )

    def lose(self, process):
        """The machine is gone with all that runs on it."""
        for pid in [process.pid, *below(process.pid)]:
            os.kill(pid, 9)
        process.wait()

    def file(self, name):
        return self.bucket / "adapters" / "runs" / RUN / name

    def manifest(self):
        file = self.bucket / ".manifest" / "cloud-train.json"
        return json.loads(file.read_text())["files"] if file.exists() else {}

    def lists(self, name):
        return f"adapters/runs/{RUN}/{name}" in self.manifest()


def below(pid):
    """The processes below one, whatever their group."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.mark.slow
def test_a_lost_machine_costs_one_checkpoint_and_the_next_one_goes_on(cloud):
    first = cloud.machine("one", hold=25)
    wait_until(lambda: cloud.lists("checkpoints/checkpoint-20/trainer_state.json"))
    cloud.lose(first)
    assert cloud.machine("two").wait(timeout=60) == 0
    run = cloud.place / "two" / "adapters" / "runs" / RUN
    assert (run / "began").read_text() == "0 20" and (run / "final").is_dir()
    assert cloud.lists("final/adapter_model.safetensors")
    steps = sorted(p.name for p in cloud.file("checkpoints").iterdir() if any(p.iterdir()))
    assert steps == ["checkpoint-30", "checkpoint-40"]
    for path, (digest, _) in cloud.manifest().items():
        assert mounted_place._line(cloud.bucket / path)[0] == digest
    ledger = (cloud.bucket / ".jobs" / "train" / "lives.jsonl").read_text()
    assert [life["why"] for life in contract.lives(ledger)] == ["lost", ""]


@pytest.mark.slow
def test_what_the_manifest_does_not_vouch_for_does_not_come_back(cloud):
    first = cloud.machine("one", hold=25)
    wait_until(lambda: cloud.lists("checkpoints/checkpoint-20/trainer_state.json"))
    cloud.lose(first)
    cloud.file("checkpoints/checkpoint-20/optimizer.pt").write_text("half")
    assert cloud.machine("two").wait(timeout=60) == 0
    run = cloud.place / "two" / "adapters" / "runs" / RUN
    assert (run / "began").read_text() == "0 10" and (run / "final").is_dir()


@pytest.mark.slow
def test_a_limit_ends_the_job_well_so_that_no_other_machine_starts(cloud):
    process = cloud.machine("one", hold=25, cap_seconds=1.0)
    assert process.wait(timeout=60) == 0
    again = cloud.machine("two", hold=25, cap_seconds=1.0)
    assert again.wait(timeout=60) == 0
    ledger = (cloud.bucket / ".jobs" / "train" / "lives.jsonl").read_text()
    assert {life["why"] for life in contract.lives(ledger)} == {"budget"}


@pytest.mark.slow
def test_a_stop_keeps_its_code_so_that_another_machine_goes_on(cloud):
    process = cloud.machine("one", hold=25)
    wait_until(lambda: cloud.lists("checkpoints/checkpoint-20/trainer_state.json"))
    process.terminate()
    assert process.wait(timeout=60) == 143


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"files": [1]}', '{"files": {"../../x": ["a", "b"]}}', '{"files": {"x": 5}}',
     '{"files": {"/etc/x": ["a", "b"]}}', '{"files": {".jobs/train/../../x": ["a", "b"]}}'],
)  # fmt: skip
def test_a_manifest_that_somebody_edited_brings_nothing(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path / "work"))
    place = mounted_place.MountedPlace(tmp_path / "ckpt", JOB, tmp_path / "job")
    place.manifest.parent.mkdir(parents=True)
    place.manifest.write_text(text)
    assert place.restore() == 0 and not (tmp_path / "x").exists()


# --- sky itself -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sky_python():
    """A Python with SkyPilot."""
    return str(tool_environment.python_with("skypilot", "sky"))


LOOK = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
[wanted] = task.resources
print(json.dumps({"name": task.name, "run": task.run, "setup": task.setup, "nodes": task.num_nodes,
                  "recovery": wanted.job_recovery, "price": wanted.max_hourly_cost,
                  "down": wanted.autostop_config.down, "spot": wanted.use_spot,
                  "files": sorted(task.file_mounts), "buckets": sorted(task.storage_mounts)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [BUCKET, SkySection(bucket="gs://other-bucket", use_spot=False, accelerators="A100-80GB:8"),
     SkySection()],
    ids=["s3", "gs", "none"],
)  # fmt: skip
def test_sky_reads_the_generated_file(sky_python, section, tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path / "work"))
    (tmp_path / "work" / "data" / "processed").mkdir(parents=True)
    file = sky.write(JOB, section, "Llama", "meta/Llama")
    env = {"HOME": str(tmp_path), "SKY_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"],
           "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}  # fmt: skip
    done = subprocess.run(
        [sky_python, "-c", LOOK, str(file)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout.strip().splitlines()[-1])
    written = yaml.safe_load(file.read_text())
    assert made["run"] == written["run"] and made["setup"] == written["setup"]
    assert made["name"] == "tandem-train" and made["nodes"] == 1 and made["down"] is True
    assert made["price"] == 1.9 and made["spot"] is section.use_spot
    assert made["recovery"]["recover_on_exit_codes"] == [140, 143]
    assert made["buckets"] == (["/ckpt"] if section.bucket else [])
    assert len(made["files"]) == 2
