"""Links that fail, hosts that reboot, killed processes: the same command again finishes the work.

Three hosts and the laptop in network namespaces of their own. In each case the adapter is that of
an undisturbed run, and there is one run.
"""

import os
import shutil
import signal
import time

import pytest

from support.checkout import ROOT
from support.host_network import HostNetwork
from support.jobs_desk import STAND_IN, JobsDesk
from support.processes import wait_until

pytestmark = pytest.mark.slow
NAMES = ("gpu1", "gpu2", "gpu3")
STAGES = ("loading", "step 25", "saving 20", "evaluating 20", "final")
DOWN_SECONDS = 10.0


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with HostNetwork(tmp_path_factory.mktemp("network"), NAMES) as made:
        yield made


@pytest.fixture(scope="module")
def desks(network, tmp_path_factory):
    """A desk a host, with one laptop; the undisturbed run `whole` is complete on gpu1."""
    laptop = tmp_path_factory.mktemp("desk")
    made = {}
    for name, host in network.hosts.items():
        desk = JobsDesk(laptop, STAND_IN, home=host.home)
        desk.host, desk.prefix = name, network.laptop.enter()
        desk.environment |= {"TANDEM_SSH_CONFIG": str(network.ssh_config()),
                             "TANDEM_SSH_ALIVE": "1", "TANDEM_SSH_TIMEOUT": "2"}  # fmt: skip
        made[name] = desk
    made["gpu1"].train("whole")
    made["gpu1"].wait("whole", 0)
    return made


def finish(desk, name, desks):
    """The same command again, until the job is done: its adapter is the undisturbed run's."""
    desk.release()
    done = desk.run(*desk.words("run", name), "--confirm", "--set", "safety.dry_run=false",
                    *desk.options, fails=None)  # fmt: skip
    answers = ("runs already", "goes on", "is completed")
    assert any(answer in done.stdout + done.stderr for answer in answers), done.stderr
    desk.wait(name, 0)
    assert desk.adapter(name) == desks["gpu1"].adapter("whole")
    assert sum(run.endswith(f"-{name}") for run in desk.runs()) == 1


def begin(desk, stage, fault):
    """Submit a job that waits at a stage, and follow it as a user does; (its name, the watch)."""
    name = f"{fault}-{stage}".replace(" ", "-")
    desk.hold(stage)
    desk.train(name)
    desk.wait_held(stage)
    return name, desk.start(*desk.words("watch", name))


def elapse(seconds):
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)


@pytest.mark.parametrize("stage", STAGES)
def test_a_link_that_is_down_for_ten_seconds_ends_nothing(desks, network, stage):
    desk, host = desks["gpu2"], network.hosts["gpu2"]
    name, watching = begin(desk, stage, "down")
    assert watching.stderr.readline()
    host.link("down")
    desk.release()
    elapse(DOWN_SECONDS)
    host.link("up")
    _, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0 and "completed" in errors, errors
    finish(desk, name, desks)


def test_a_black_hole_is_noticed_and_the_watch_goes_on_after_it(desks, network):
    desk, host = desks["gpu3"], network.hosts["gpu3"]
    name, watching = begin(desk, "step 25", "hole")
    assert watching.stderr.readline()
    host.black_hole(True)
    try:
        lines = iter(watching.stderr.readline, "")
        assert any("the run there goes on" in line for line in lines)
        refused = desk.run(*desk.words("list"), fails=1).stderr
        assert "gpu3" in refused and "Traceback" not in refused
    finally:
        host.black_hole(False)
    desk.release()
    _, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0, errors
    finish(desk, name, desks)


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_reboot_the_same_command_goes_on(desks, network, stage):
    desk = desks["gpu3"]
    name, watching = begin(desk, stage, "reboot")
    desk.release()
    network.hosts["gpu3"].reboot()
    _, errors = watching.communicate(timeout=120)
    ended = "was killed there" in errors or watching.returncode == 0
    assert ended and "Traceback" not in errors, errors
    finish(desk, name, desks)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_trainer_goes_on_by_itself(desks, network, stage):
    desk = desks["gpu2"]
    name, watching = begin(desk, stage, "kill")
    pid = int((desk.run_of(name) / "lives.txt").read_text().split()[-1])
    host = network.hosts["gpu2"].process.pid
    desk.release()
    in_host = ["nsenter", "--target", str(child_of(host)), "--pid", "--mount"]
    desk.prefix, kept = in_host, desk.prefix
    try:
        desk.run("kill", "-9", pid, fails=None)
    finally:
        desk.prefix = kept
    watching.communicate(timeout=120)
    finish(desk, name, desks)


def child_of(pid):
    """The first process of a host, as this machine numbers it."""
    import psutil

    inner = psutil.Process(pid)
    while inner.name() != "bash":
        inner = inner.children()[0]
    return inner.pid


@pytest.mark.parametrize("verb", ["watch", "keep"])
def test_a_killed_laptop_side_changes_nothing(desks, verb):
    desk = desks["gpu2"]
    name, watching = begin(desk, "step 25", f"laptop-{verb}")
    keeping = desk.start(*desk.words(verb, name))
    elapse(1)
    for process in (watching, keeping):
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kept = desk.jobs("keep", name, "--once")
    assert "checkpoint-20" in kept
    finish(desk, name, desks)


def test_a_host_that_is_gone_for_ever_costs_one_checkpoint_interval(desks, network):
    desk, other = desks["gpu3"], desks["gpu2"]
    name, watching = begin(desk, "step 25", "gone")
    assert "checkpoint-20" in desk.jobs("keep", name, "--once")
    network.hosts["gpu3"].power_off()
    os.killpg(watching.pid, signal.SIGKILL)
    watching.communicate()
    try:
        assert "is started" in other.jobs("resume", name)
        other.wait(name, 0)
        assert "step 20/" not in other.log(name)
        assert other.adapter(name) == desks["gpu1"].adapter("whole")
    finally:
        desk.release()
        network.hosts["gpu3"].boot()


@pytest.mark.parametrize("fault", ["down", "reboot", "kill"])
def test_a_disturbed_sync_is_finished_by_the_same_command(desks, network, fault):
    """Data goes up and the run comes down through a link that fails in the middle."""
    desk, host = desks["gpu1"], network.hosts["gpu1"]
    data = desk.laptop / "data" / "processed"
    data.mkdir(parents=True, exist_ok=True)
    content = os.urandom(1 << 20) * 48
    (data / "train_sft.jsonl").write_bytes(content)
    shutil.rmtree(desk.there / "data", ignore_errors=True)
    up = desk.start(ROOT / "scripts" / "sync_to_remote.sh", desk.host)
    incoming = desk.there / ".incoming"
    wait_until(lambda: any(incoming.glob("**/*")) or up.poll() is not None)
    disturb(host, up, fault)
    up.communicate(timeout=180)
    desk.run(ROOT / "scripts" / "sync_to_remote.sh", desk.host)
    assert (desk.there / "data" / "processed" / "train_sft.jsonl").read_bytes() == content
    desk.run(ROOT / "scripts" / "sync_from_remote.sh", desk.host)
    run = desk.laptop / "adapters" / "runs" / desk.run_of("whole").name
    there = desk.run_of("whole") / "final" / "adapter_model.safetensors"
    assert (run / "final" / "adapter_model.safetensors").read_bytes() == there.read_bytes()


def disturb(host, process, fault):
    if fault == "down":
        host.link("down")
        elapse(DOWN_SECONDS)
        host.link("up")
    elif fault == "reboot":
        host.reboot()
    else:
        os.killpg(process.pid, signal.SIGKILL)
