"""Jobs with the real trainer: in a folder, and as two processes on two nodes of a real Slurm."""

import json
import os
import shutil
import sys

import pytest

from support import tiny
from support.checkout import ROOT
from support.host_network import HostNetwork
from support.jobs_desk import JobsDesk
from support.processes import wait_until
from support.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.remote_env, pytest.mark.slow]
STEPS = {"training__max_steps": 80, "training__eval_steps": 40, "training__save_steps": 40,
         "training__logging_steps": 1, "safety__dry_run": "false",
         "model__model_name_or_path": "data/synthetic/miniature"}  # fmt: skip


def make_desk(place, home=None):
    made = JobsDesk(place, home=home)
    made.options = tiny.options(**STEPS)
    tiny.write_rows(made.there)
    built = tiny.build(place / "built")
    shutil.copytree(built, made.there / "data" / "synthetic" / "miniature")
    return made


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return make_desk(tmp_path_factory.mktemp("jobs"))


def wait_for_step(desk, name, step):
    wait_until(lambda: f"step {step}/" in desk.log(name), seconds=240)


def test_stopped_and_resumed_the_adapter_is_that_of_an_undisturbed_run(desk):
    desk.train("whole")
    desk.train("stopped")
    wait_for_step(desk, "stopped", 10)
    desk.jobs("stop", "stopped")
    desk.wait("whole", 0)
    desk.wait("stopped", 143)
    assert desk.step("stopped") < 80
    desk.jobs("resume", "stopped")
    desk.wait("stopped", 0)
    assert desk.adapter("stopped") == desk.adapter("whole")


def test_two_nodes_train_one_run_and_stop_and_resume_together(desk, tmp_path_factory):
    """torchrun on both nodes; the signal reaches the batch step alone, and all ranks stop there."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as slurm:
        desk.environment |= slurm.variables
        desk.engine = ["--engine", "slurm", "--nodes", "2"]
        desk.train("two")
        desk.wait("two", 0)
        facts = json.loads((desk.run_of("two") / "run.json").read_text())
        assert facts["world_size"] == 2
        desk.train("two-stopped")
        wait_for_step(desk, "two-stopped", 10)
        job = (desk.there / ".jobs" / "two-stopped" / "job.id").read_text().strip()
        slurm.run("scancel", "--batch", "--signal=USR2", job)
        wait_until(lambda: slurm.word(job) == "PENDING", seconds=120)
        status = json.loads((desk.run_of("two-stopped") / "status.json").read_text())
        assert status["state"] == "stopped" and status["step"] < 80
        checkpoints = [p.name for p in (desk.run_of("two-stopped") / "checkpoints").iterdir()]
        assert f"checkpoint-{status['step']}" in checkpoints
        slurm.begin_now(job)
        desk.wait("two-stopped", 0)
        assert desk.adapter("two-stopped") == desk.adapter("two")


def test_two_hosts_without_a_common_disk_train_one_run(tmp_path):
    """A stop on the second host ends both with a checkpoint on each; the same command goes on."""
    with HostNetwork(tmp_path / "network", ("gpu1", "gpu2")) as network:
        first, second = two_desks(network, tmp_path, max_steps=30)
        first.train("whole")
        first.wait("whole", 0)
        second.wait("whole", 0)
        assert json.loads((first.run_of("whole") / "run.json").read_text())["world_size"] == 2
        assert not (second.run_of("whole") / "final").exists()
        first.train("stopped")
        wait_for_step(first, "stopped", 5)
        second.jobs("stop", "stopped")
        first.wait("stopped", 143)
        second.wait("stopped", 143)
        checkpoint = f"checkpoints/checkpoint-{first.step('stopped')}/adapter_model.safetensors"
        assert (first.run_of("stopped") / checkpoint).exists()
        assert (second.run_of("stopped") / checkpoint).exists()
        script = ROOT / "scripts" / "jobs.py"
        words = [sys.executable, script, "resume", "stopped", "--hosts", "gpu2 gpu1"]
        assert first.run(*words).stdout.count("goes on") == 2
        first.wait("stopped", 0)
        assert first.adapter("stopped") == first.adapter("whole")


def test_a_host_that_dies_while_it_saves_costs_one_checkpoint_interval(tmp_path):
    """Its checkpoint is half there and the first host's is whole: both go on from the one before.

    The trainer of the second host waits where it writes what makes a checkpoint whole: a pipe.
    """
    with HostNetwork(tmp_path / "network", ("gpu1", "gpu2")) as network:
        first, second = desks = two_desks(network, tmp_path, max_steps=60, save_steps=20,
                                          eval_steps=20, save_total_limit=1,
                                          load_best_model_at_end="false",
                                          early_stopping_patience="null")  # fmt: skip
        first.train("whole")
        first.wait("whole", 0)
        first.train("torn")
        wait_for_step(first, "torn", 21)
        pipe = second.run_of("torn") / "checkpoints" / "checkpoint-40" / "trainer_state.json"
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        whole = first.run_of("torn") / "checkpoints" / "checkpoint-40" / "trainer_state.json"
        first.wait_for(whole.exists, "torn")
        wait_until(lambda: (pipe.parent / "optimizer.pt").exists())
        network.hosts["gpu2"].power_off()
        pipe.unlink()
        first.wait_for((first.there / ".jobs" / "torn" / "exit").exists, "torn")
        network.hosts["gpu2"].boot()
        assert first.train("torn").count("goes on") == 2
        for desk in desks:
            desk.wait("torn", 0)
        status = json.loads((first.run_of("torn") / "status.json").read_text())
        assert status["resumed_from"] == "checkpoint-20"
        assert first.adapter("torn") == first.adapter("whole")


def two_desks(network, place, **steps):
    """A desk on each of two hosts; the first one submits to both."""
    desks = [make_desk(place, host.home) for host in network.hosts.values()]
    for desk, name in zip(desks, network.hosts, strict=True):
        desk.host, desk.prefix = name, network.laptop.enter()
        desk.environment |= {"TANDEM_SSH_CONFIG": str(network.ssh_config())}
        changed = {f"training__{key}": value for key, value in steps.items()}
        desk.options = tiny.options(**STEPS | changed)
    desks[0].engine = ["--hosts", " ".join(network.hosts)]
    return desks
