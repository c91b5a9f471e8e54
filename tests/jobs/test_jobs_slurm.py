"""Jobs on a real two-node Slurm: a disturbed run ends with the undisturbed run's adapter."""

import os

import pytest

from support.jobs_desk import STAND_IN, JobsDesk
from support.processes import wait_until
from support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def make_desk(slurm, place):
    made = JobsDesk(place, STAND_IN)
    made.environment |= slurm.variables
    made.engine = ["--engine", "slurm"]
    return made


@pytest.fixture(scope="module")
def desk(slurm, tmp_path_factory):
    """A desk at a login node, on which the undisturbed run `whole` is complete."""
    made = make_desk(slurm, tmp_path_factory.mktemp("jobs"))
    return made.with_whole_run()


@pytest.fixture(autouse=True)
def released(desk):
    yield
    desk.release()


def number(desk, name):
    return (desk.there / ".jobs" / name / "job.id").read_text().strip()


def begin(desk, name, place, *words):
    """Submit a job that waits at `place`; its number."""
    desk.hold(place)
    assert "is started" in desk.train(name, *words)
    desk.wait_held(place)
    if place.startswith("step "):  # slurmstepd writes the log: a crash loses what it still holds
        wait_until(lambda: f"{place}/" in desk.log(name))
    return number(desk, name)


def must_end_as_the_whole(desk, name):
    desk.release()
    file = desk.there / ".jobs" / name / "exit"  # 143 while it waits for its next life
    desk.wait_for(lambda: file.exists() and file.read_text() == "0\n", name)
    assert desk.adapter(name) == desk.adapter("whole")
    wait_until(lambda: desk.state(name) == "ended (0)")


def test_submitted_twice_and_requeued_it_is_one_run(desk, slurm):
    job = begin(desk, "queued", "step 25")
    runs = desk.runs()
    assert "runs already" in desk.train("queued")
    slurm.run("scontrol", "requeue", job)
    desk.release()
    wait_until(lambda: slurm.word(job) == "PENDING")
    assert desk.state("queued") == "queued"
    assert "runs already" in desk.train("queued") and number(desk, "queued") == job
    slurm.begin_now(job)
    must_end_as_the_whole(desk, "queued")
    assert desk.runs() == runs


def test_stopped_with_a_checkpoint_and_resumed(desk, slurm):
    begin(desk, "stopped", "step 25")
    desk.jobs("stop", "stopped")
    desk.wait("stopped", 143)
    assert desk.step("stopped") == 26
    desk.release()
    assert "goes on" in desk.jobs("resume", "stopped")
    must_end_as_the_whole(desk, "stopped")


def test_stopped_at_once_it_goes_on_from_its_checkpoint(desk, slurm):
    job = begin(desk, "ended", "step 25")
    desk.jobs("stop", "ended", "--now")
    wait_until(lambda: slurm.word(job) in ("", "CANCELLED", "COMPLETED", "FAILED"))
    desk.release()
    assert "goes on" in desk.jobs("resume", "ended")
    must_end_as_the_whole(desk, "ended")


def test_taken_out_of_the_queue_it_has_ended(desk, slurm):
    slurm.run("scontrol", "update", "PartitionName=short", "State=DOWN")
    try:
        assert "is started" in desk.train("waiting", "--partition", "short", "--time", "0.1")
        assert desk.state("waiting") == "queued"
        desk.jobs("stop", "waiting")
        wait_until(lambda: desk.state("waiting") == "ended (143)")
    finally:
        slurm.run("scontrol", "update", "PartitionName=short", "State=UP")
    desk.jobs("resume", "waiting")
    must_end_as_the_whole(desk, "waiting")


def test_a_node_that_crashes_costs_one_checkpoint_interval(desk, slurm):
    job = begin(desk, "crashed", "step 25")
    node = slurm.node_of(job)
    slurm.crash(node)
    try:
        desk.release()
        slurm.begin_now(job)
        must_end_as_the_whole(desk, "crashed")
        assert desk.log("crashed").count("step 21/") == 2, "it went on from step 20"
    finally:
        slurm.boot(node)


def test_a_life_that_slurm_gave_up_is_waited_for(desk, slurm):
    """slurmd dies and its job lives on: the requeued life must not train the run beside it."""
    job = begin(desk, "left", "step 25")
    node = slurm.node_of(job)
    os.kill(slurm.daemon(node), 9)
    try:
        slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        slurm.begin_now(job)
        wait_until(lambda: "waits for the end of a life" in desk.log("left"))
        must_end_as_the_whole(desk, "left")
        assert desk.log("left").count("step 26/") == 1
    finally:
        slurm.boot(node)


def test_a_drained_node_lets_its_job_end(desk, slurm):
    job = begin(desk, "drained", "step 25")
    node = slurm.node_of(job)
    slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=repair")
    try:
        must_end_as_the_whole(desk, "drained")
    finally:
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")


def test_without_scontrol_on_the_nodes_the_stop_before_the_end_is_resumed(desk, slurm, tmp_path):
    path = desk.environment.get("PATH")
    for name in ("bin", "usr/bin"):
        for tool in os.listdir(f"/{name}"):
            link = tmp_path / tool
            if tool != "scontrol" and not link.is_symlink():
                link.symlink_to(f"/{name}/{tool}")
    desk.environment["PATH"] = str(tmp_path)
    try:
        job = begin(desk, "bare", "step 25")
        slurm.run("scancel", "--batch", "--signal=USR2", job)
        desk.wait("bare", 140)
        desk.release()
        wait_until(lambda: desk.state("bare") == "ended (140)")
        assert "goes on" in desk.jobs("resume", "bare")
        must_end_as_the_whole(desk, "bare")
    finally:
        desk.environment |= {"PATH": path} if path else {}
        if not path:
            del desk.environment["PATH"]


def test_watch_follows_through_the_queue_to_the_end(desk, slurm):
    begin(desk, "followed", "step 5")
    watching = desk.start(*desk.words("watch", "followed"))
    lines = iter(watching.stderr.readline, "")
    assert any("step 5/40" in line for line in lines)
    desk.release()
    _, errors = watching.communicate(timeout=120)
    assert watching.returncode == 0 and "completed" in errors, errors


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--partition", "none"), "Slurm refused the job (Invalid partition name specified)"),
        (("--partition", "short", "--time", "20"), "Slurm refused the job (Partition"),
        (("--gpus", "9"), "Slurm refused the job (Requested node configuration is not available)"),
        (("--nodes", "5"), "Slurm refused the job ("),
    ],
)
def test_what_slurm_refuses_is_one_line_in_its_words(desk, slurm, words, line):
    answer = desk.jobs("run", "nowhere", *desk.engine, *words, "--", "true", fails=2)
    assert line in answer and "sinfo there" in answer and answer.count("\n") == 1
    assert slurm.run("squeue", "-h", "-n", "tandem-nowhere", "-o", "%i") == ""
    assert not (desk.there / ".jobs" / "nowhere").exists()


def test_a_refused_submission_leaves_nothing_and_works_once_its_cause_is_mended(desk, slurm):
    runs = desk.runs()
    desk.train("mended", "--partition", "none", fails=2)
    assert "mended" not in desk.jobs("list")
    begin(desk, "mended", "step 5")
    assert "runs already" in desk.train("mended")
    must_end_as_the_whole(desk, "mended")
    assert len(desk.runs()) == len(runs) + 1


def test_a_refused_resume_leaves_the_job_as_it_ended(desk, slurm):
    begin(desk, "halted", "step 15")
    desk.jobs("stop", "halted")
    desk.wait("halted", 143)
    desk.release()
    folder = desk.there / ".jobs" / "halted"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    desk.train("halted", "--partition", "short", "--time", "20", fails=2)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert "goes on" in desk.jobs("resume", "halted")
    must_end_as_the_whole(desk, "halted")


def test_a_scheduler_that_does_not_answer_ends_no_job(desk, slurm, tmp_path):
    begin(desk, "silent", "step 5")
    conf = tmp_path / "slurm.conf"
    text = (slurm.place / "slurm.conf").read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    conf.write_text(text.replace(port, "SlurmctldPort=1") + "MessageTimeout=1\n")
    kept = dict(desk.environment)
    desk.environment["SLURM_CONF"] = str(conf)
    try:
        answer = desk.train("silent", fails=1)
        assert "Slurm does not answer" in answer and answer.count("\n") == 1
    finally:
        desk.environment = kept
    assert desk.state("silent") == "running"
    must_end_as_the_whole(desk, "silent")


def test_the_time_of_a_job_ends_it_with_a_checkpoint_and_it_is_queued_again(desk, slurm):
    job = begin(desk, "timed", "step 15")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")  # below the warning: at once
    wait_until(lambda: "stops with a checkpoint" in desk.log("timed"), seconds=90)
    wait_until(lambda: slurm.word(job) == "PENDING")
    assert not (desk.there / ".jobs" / "timed" / "exit").exists()
    desk.release()
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    slurm.begin_now(job)
    must_end_as_the_whole(desk, "timed")
    assert desk.log("timed").count("step 16/") == 1, "it went on from where it stopped"


def test_a_job_at_the_end_of_its_own_time_is_not_queued_again(desk, slurm):
    job = begin(desk, "capped", "step 15", "--time", "0.025")  # 90 s
    slurm.run("scancel", "--batch", "--signal=USR2", job)  # what Slurm sends before the end
    desk.wait("capped", 140)
    wait_until(lambda: desk.state("capped") == "ended (140)")
    desk.release()
    desk.jobs("resume", "capped")
    must_end_as_the_whole(desk, "capped")


def site_option(desk, option):
    """The variable that gives the desk's host an option of its site, as configs/jobs.yaml does."""
    return {f"TANDEM_HOSTS__{desk.host.upper()}__EXTRA": f'["{option}"]'}


def test_a_minute_of_the_site_passes_and_the_job_is_queued_again(desk, slurm, monkeypatch):
    """Nobody shortens anything: Slurm warns before the end of the time that the site gives."""
    monkeypatch.setattr(desk, "environment", desk.environment | site_option(desk, "--time=1"))
    job = begin(desk, "minute", "step 15")
    assert "#SBATCH --signal=B:USR2@30" in (desk.there / ".jobs/minute/batch.sh").read_text()
    desk.wait_for(lambda: slurm.word(job) == "PENDING", "minute")
    assert "stops with a checkpoint" in desk.log("minute") and desk.state("minute") == "queued"
    desk.release()
    slurm.begin_now(job)
    must_end_as_the_whole(desk, "minute")
    assert desk.log("minute").count("step 16/") == 1, "it went on from where it stopped"


def test_a_job_that_hears_no_warning_is_killed_at_its_time_and_goes_on(desk, slurm, monkeypatch):
    monkeypatch.setattr(desk, "environment", desk.environment | site_option(desk, "--time=1"))
    (desk.there / "deaf").touch()
    job = begin(desk, "deaf", "step 15")
    desk.wait_for(lambda: slurm.word(job) not in ("RUNNING", "COMPLETING"), "deaf")
    desk.wait_for(lambda: "DUE TO TIME LIMIT" in desk.log("deaf"), "deaf")
    desk.wait_for(lambda: desk.state("deaf") == "gone", "deaf")
    (desk.there / "deaf").unlink()
    desk.release()
    assert "goes on" in desk.train("deaf")
    must_end_as_the_whole(desk, "deaf")
    assert desk.log("deaf").count("step 11/") == 2, "it went on from checkpoint 10"
