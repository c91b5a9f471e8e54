"""Jobs on a folder host: one run for one name, whatever disturbs it; what cannot be is one line."""

import json
import os
import shutil
import types

import pytest

from jobs import files
from jobs.engines import shell
from kit import publish
from support.jobs_desk import STAND_IN, JobsDesk, kit_files
from support.processes import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A desk on which the undisturbed run `whole` is complete."""
    made = JobsDesk(tmp_path_factory.mktemp("jobs"), STAND_IN)
    return made.with_whole_run()


@pytest.fixture(autouse=True)
def released(desk):
    yield
    desk.release()


def test_submitted_twice_it_is_one_run_and_finished_it_is_refused(desk):
    before = desk.runs()
    desk.hold("step 5")
    first = desk.train("twice", "--budget", "5", "--rate", "2")
    assert "is started" in first and "it ends after 2 h 28 min" in first
    desk.wait_held("step 5")
    assert "runs already" in desk.train("twice")
    desk.release()
    desk.wait("twice", 0)
    assert len(desk.runs()) == len(before) + 1 and desk.adapter("twice") == desk.adapter("whole")
    refused = desk.train("twice", fails=1)
    assert "is completed" in refused and "give another NAME" in refused
    spent = json.loads(desk.jobs("costs", "--json").splitlines()[0])
    assert next(r for r in spent["jobs"] if r["job"] == "twice")["cost"] > 0


@pytest.mark.parametrize("place", ["step 5", "saving 20", "evaluating 20", "final"])
def test_stopped_and_resumed_the_adapter_is_that_of_an_undisturbed_run(desk, place):
    name = place.replace(" ", "-")
    desk.hold(place)
    desk.train(name)
    desk.wait_held(place)
    assert "with a checkpoint" in desk.jobs("stop", name)
    desk.wait(name, 143)
    desk.release()
    assert "goes on" in desk.jobs("resume", name)
    desk.wait(name, 0)
    assert desk.adapter(name) == desk.adapter("whole")


def test_a_killed_job_goes_on_with_its_run(desk):
    desk.hold("step 25")
    desk.train("killed")
    desk.wait_held("step 25")
    runs = desk.runs()
    desk.jobs("stop", "killed", "--now")
    desk.wait("killed", 137)
    desk.release()
    desk.jobs("resume", "killed")
    desk.wait("killed", 0)
    assert desk.runs() == runs and desk.adapter("killed") == desk.adapter("whole")


def test_a_kept_run_goes_on_at_another_host(desk, tmp_path):
    desk.hold("step 25")
    desk.train("moved")
    desk.wait_held("step 25")
    assert "checkpoint-20" in desk.jobs("keep", "moved", "--once")
    desk.jobs("stop", "moved", "--now")
    desk.wait("moved", 137)
    desk.release()
    other = JobsDesk(tmp_path, STAND_IN)
    other.laptop = desk.laptop
    assert "is started" in other.jobs("resume", "moved")
    other.wait("moved", 0)
    assert "step 20/" not in other.log("moved"), "it began after the checkpoint that was kept"
    assert other.adapter("moved") == desk.adapter("whole")


def test_watch_keeps_checkpoints_as_they_appear_and_the_adapter_at_the_end(desk, monkeypatch):
    quick = desk.environment | {"TANDEM_KEEPER__EVERY_SECONDS": "0.1"}
    monkeypatch.setattr(desk, "environment", quick)
    desk.hold("step 25")
    desk.train("observed")
    desk.wait_held("step 25")
    watching = desk.start(*desk.words("watch", "observed"))
    run = desk.laptop / "adapters" / "runs" / desk.run_of("observed").name
    lines = iter(watching.stderr.readline, "")
    assert any("observed: checkpoint-10, checkpoint-20 kept" in line for line in lines)
    assert (run / "checkpoints" / "checkpoint-20" / "trainer_state.json").exists()
    desk.release()
    _, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0 and "completed" in errors, errors
    final = run / "final" / "adapter_model.safetensors"
    assert publish.sha256(final) == desk.adapter("whole")


def test_ctrl_c_in_watch_leaves_the_job_alone_and_says_what_can_be_done(desk):
    desk.hold("step 5")
    desk.train("followed")
    desk.wait_held("step 5")
    watching = desk.start(*desk.words("watch", "followed"))
    lines = iter(watching.stderr.readline, "")
    assert any("step 5/" in line for line in lines)
    os.kill(watching.pid, 2)
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert "followed goes on" in errors and errors.count("  make ") == 3
    desk.release()
    assert "completed" in desk.jobs("watch", "followed")
    assert desk.adapter("followed") == desk.adapter("whole")


def test_without_confirmation_nothing_starts(desk):
    answer = desk.jobs("run", "planned")
    assert "Nothing was started" in answer and not (desk.there / ".jobs" / "planned").exists()
    assert "dry_run: true" in desk.jobs("run", "planned", "--confirm", fails=2)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("run", "x", "--engine", "slurm", "--confirm", "--", "true"), 2, "no sbatch there"),
        (("run", "x", "--engine", "ssh", "--", "true"), 2, "ENGINE=folder"),
        (("run", "x", "--budget", "nan", "--", "true"), 2, "give a number above 0"),
        (("run", "x", "--budget", "3", "--", "true"), 2, "give RATE=1.90"),
        (("run", "../x", "--", "true"), 2, "use letters, digits"),
        (("watch", "nothing"), 2, "no job nothing"),
        (("stop", "nothing"), 2, "no job nothing"),
        (("resume", "nothing"), 2, "none was kept here"),
    ],
)
def test_what_cannot_be_is_one_line(desk, words, code, line, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(without_slurm(tmp_path)))
    answer = desk.jobs(*words, fails=code).strip()
    assert line in answer and "Traceback" not in answer and answer.count("\n") == 0


def without_slurm(folder):
    """A PATH with every program of /usr/bin and /bin but Slurm's."""
    for place in ("/usr/bin", "/bin"):
        for name in os.listdir(place):
            link = folder / name
            if name not in ("sbatch", "squeue", "scontrol", "sacct") and not link.is_symlink():
                link.symlink_to(f"{place}/{name}")
    return folder


def test_a_damaged_job_hides_no_other(desk):
    folder = desk.there / ".jobs" / "odd"
    folder.mkdir()
    (folder / "engine.json").write_text('{"name": "../../x", "engine": [[]]}')
    try:
        table = desk.jobs("list")
        assert "damaged" in table and "whole" in table and "Traceback" not in table
    finally:
        shutil.rmtree(folder)


def test_a_killed_supervisor_is_gone_and_the_same_command_goes_on(desk):
    desk.hold("step 15")
    desk.train("orphan")
    desk.wait_held("step 15")
    for name in ("pid", "supervisor.json"):  # run.sh, then the supervisor and its trainer
        text = (desk.there / ".jobs" / "orphan" / name).read_text()
        kill_tree(int(text if name == "pid" else json.loads(text)["pid"]))
    wait_until(lambda: desk.state("orphan") == "gone")
    desk.release()
    assert "goes on" in desk.train("orphan")
    desk.wait("orphan", 0)
    assert desk.adapter("orphan") == desk.adapter("whole")


def kill_tree(pid):
    """SIGKILL for a process and all below it."""
    import psutil

    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        process.kill()


def test_the_host_gets_what_git_has():
    assert "scripts/jobs/supervisor.py" in kit_files()


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"exit_code": 137, "status": {"state": "running"}}, ("ended", 137)),
        ({"exit_code": 137, "status": {"state": "completed"}}, ("ended", 0)),
        ({"status": {"state": "completed"}}, ("ended", 0)),
        ({"alive": True, "status": {"state": "completed"}}, ("running", None)),
        ({"status": {"state": "running"}}, ("gone", None)),
    ],
)
def test_a_run_completed_by_a_trainer_that_outlived_its_supervisor_is_done(
    monkeypatch, facts, state
):
    """What `run` calls completed, `jobs` must not call killed: the same command ends well."""
    monkeypatch.setattr(shell, "read_folder", lambda host, name: files.JobFolder(**facts))
    answer = shell.state(None, types.SimpleNamespace(name="drilled"))
    assert (answer.kind, answer.code) == state
