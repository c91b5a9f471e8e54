"""Real jobs: a folder, an ssh host, a two-node Slurm; disturbed runs equal the undisturbed one."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kit import publish
from support import tiny
from support.checkout import ROOT
from support.processes import wait_until

ASKED = os.environ.get("TANDEM_TEST_JOBS")
pytestmark = [
    pytest.mark.remote_env,
    pytest.mark.slow,
    pytest.mark.skipif(not ASKED, reason="takes minutes; TANDEM_TEST_JOBS=1 runs it"),
]
STEPS = {"training__max_steps": 300, "training__eval_steps": 50, "training__save_steps": 50,
         "model__model_name_or_path": "data/synthetic/miniature"}  # fmt: skip


class Desk:
    """A laptop's checkout and a folder host; `jobs` runs scripts/jobs.py there."""

    def __init__(self, place):
        self.host, self.laptop = place / "host", place / "laptop"
        self.there = self.host / "tandem"
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, names.stdout.decode().split("\0")):
            if name.startswith(("scripts/", "configs/")) and (ROOT / name).is_file():
                target = self.there / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        (self.there / ".venv-remote").symlink_to(ROOT / ".venv-remote")
        tiny.write_rows(self.there)
        built = tiny.build(place / "built")
        shutil.copytree(built, self.there / "data" / "synthetic" / "miniature")
        self.laptop.mkdir()

    def jobs(self, *words, host=None, fails=0):
        env = os.environ | {"TANDEM_WORKDIR": str(self.laptop), "TANDEM_WATCH_SECONDS": "0.2"}
        verb, *rest = map(str, words)
        place = ["--host", str(host or self.host)]
        command = [sys.executable, str(ROOT / "scripts" / "jobs.py"), verb, *place, *rest]
        done = subprocess.run(command, env=env, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode == fails, done.stderr
        return done.stdout + done.stderr

    def train(self, name, *words):
        confirmed = ["--confirm", "--set", "safety.dry_run=false"]
        return self.jobs("run", name, *words, *confirmed, *tiny.options(**STEPS))

    def state(self, name):
        rows = json.loads(self.jobs("list", "--json").splitlines()[0])["jobs"]
        return next(row for row in rows if row["job"] == name)

    def wait(self, name, kind):
        """The row of a job once it has ended, which must be as `kind` says."""
        ended = (self.there / ".jobs" / name / "exit").exists
        wait_until(ended, seconds=600, problem=f"{name}: {self.log(name)[-2000:]}")
        row = self.state(name)
        assert row["state"] == kind, self.log(name)[-2000:]
        return row

    def log(self, name):
        file = self.there / ".jobs" / name / "log.txt"
        return file.read_text() if file.exists() else ""

    def wait_for_step(self, name, step):
        wait_until(lambda: f"step {step}/" in self.log(name), seconds=600)

    def adapter(self, name):
        job = json.loads((self.there / ".jobs" / name / "engine.json").read_text())
        final = self.there / "adapters" / "runs" / job["run_id"] / "final"
        return publish.sha256(final / "adapter_model.safetensors")

    def runs(self):
        return sorted(p.name for p in (self.there / "adapters" / "runs").iterdir())


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    made = Desk(tmp_path_factory.mktemp("jobs"))
    made.train("whole")
    made.wait("whole", "ended (0)")
    return made


def test_submitted_twice_it_is_one_run_and_finished_it_is_refused(desk):
    before = desk.runs()
    output = desk.train("twice", "--budget", "5", "--rate", "2")
    assert "is started" in output and "it ends after 2 h 28 min" in output
    assert "runs already" in desk.train("twice")
    desk.wait("twice", "ended (0)")
    assert len(desk.runs()) == len(before) + 1 and desk.adapter("twice") == desk.adapter("whole")
    refused = desk.jobs("run", "twice", "--confirm", "--set", "safety.dry_run=false",
                        *tiny.options(**STEPS), fails=1)  # fmt: skip
    assert "is completed" in refused and "give another NAME" in refused
    spent = json.loads(desk.jobs("costs", "--json").splitlines()[0])
    assert next(r for r in spent["jobs"] if r["job"] == "twice")["cost"] > 0


def test_stopped_and_resumed_the_adapter_is_that_of_an_undisturbed_run(desk):
    desk.train("stopped")
    desk.wait_for_step("stopped", 50)
    assert "with a checkpoint" in desk.jobs("stop", "stopped")
    assert desk.wait("stopped", "ended (143)")["step"]
    assert "goes on" in desk.jobs("resume", "stopped")
    desk.wait("stopped", "ended (0)")
    assert desk.adapter("stopped") == desk.adapter("whole")


def test_a_killed_job_goes_on_with_its_run(desk):
    desk.train("killed")
    desk.wait_for_step("killed", 60)
    desk.jobs("stop", "killed", "--now")
    desk.wait("killed", "ended (137)")
    runs = desk.runs()
    desk.jobs("resume", "killed")
    desk.wait("killed", "ended (0)")
    assert desk.runs() == runs and desk.adapter("killed") == desk.adapter("whole")


def test_a_kept_run_goes_on_at_another_host(desk, tmp_path):
    desk.train("moved")
    desk.wait_for_step("moved", 60)
    desk.jobs("stop", "moved")
    desk.wait("moved", "ended (143)")
    assert "checkpoint-" in desk.jobs("keep", "moved", "--once")
    other = tmp_path / "gpu2"
    ignored = shutil.ignore_patterns(".jobs", "runs")
    shutil.copytree(desk.there, other / "tandem", symlinks=True, ignore=ignored)
    first, desk.there = desk.there, other / "tandem"
    try:
        assert "is started" in desk.jobs("resume", "moved", host=other)
        job = desk.there / ".jobs" / "moved"
        wait_until((job / "exit").exists, problem=desk.log("moved"))
        assert (job / "exit").read_text() == "0\n", desk.log("moved")
        moved = desk.adapter("moved")
    finally:
        desk.there = first
    assert moved == desk.adapter("whole")


def test_without_confirmation_nothing_starts(desk):
    output = desk.jobs("run", "planned", *tiny.options(**STEPS))
    assert "Nothing was started" in output and not (desk.there / ".jobs" / "planned").exists()
    output = desk.jobs("run", "planned", "--confirm", *tiny.options(**STEPS), fails=2)
    assert "dry_run: true" in output


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
    output = desk.jobs(*words, fails=code).strip()
    assert line in output and "Traceback" not in output and output.count("\n") == 0


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
        output = desk.jobs("list")
        assert "damaged" in output and "whole" in output and "Traceback" not in output
    finally:
        shutil.rmtree(folder)


# --- Slurm ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    script = ROOT / "tests" / "slurm.sh"
    ready = subprocess.run([script, "available"], capture_output=True, text=True)
    if ready.returncode:
        pytest.skip(ready.stdout.strip())
    place = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([script, "start", place], capture_output=True, text=True, check=True)
    os.environ["SLURM_CONF"] = started.stdout.strip().partition("=")[2]
    yield place
    subprocess.run([script, "stop", place], check=True)
    del os.environ["SLURM_CONF"]


def control(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def number(desk, name):
    return (desk.there / ".jobs" / name / "job.id").read_text().strip()


def test_slurm_runs_it_once_and_a_requeue_goes_on_with_the_run(desk, slurm):
    assert "is started" in desk.train("queued", "--engine", "slurm")
    assert "runs already" in desk.train("queued", "--engine", "slurm")
    desk.wait_for_step("queued", 50)
    control("scontrol", "requeue", number(desk, "queued"))
    wait_until(lambda: desk.state("queued")["state"] == "queued")
    control("scontrol", "update", f"JobId={number(desk, 'queued')}", "StartTime=now")
    desk.wait("queued", "ended (0)")
    assert desk.adapter("queued") == desk.adapter("whole")


def test_slurm_stops_with_a_checkpoint_and_resumes(desk, slurm):
    desk.train("stopped-there", "--engine", "slurm")
    desk.wait_for_step("stopped-there", 50)
    desk.jobs("stop", "stopped-there")
    desk.wait("stopped-there", "ended (143)")
    desk.jobs("resume", "stopped-there")
    desk.wait("stopped-there", "ended (0)")
    assert desk.adapter("stopped-there") == desk.adapter("whole")


def test_what_slurm_refuses_is_said_in_its_words(desk, slurm):
    output = desk.jobs("run", "nowhere", "--engine", "slurm", "--partition", "none", "--", "true",
                     fails=1)  # fmt: skip
    assert "Slurm refused the job (" in output and "partition" in output and output.count("\n") == 1
