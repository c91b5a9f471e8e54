"""The rehearsal: the whole trip as a new user starts it."""

import json
import os
import shutil
import subprocess

import pytest

from kit import console
from support.checkout import ROOT
from support.slurm_cluster import SlurmCluster
from workflow import trip


def make(*words, env=None):
    return subprocess.run(
        ["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env=os.environ | (env or {}), stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--rehearse", "--raw", "/nowhere/at/all"], 2, "RAW=/nowhere/at/all: no such file"),
        (["--rehearse", "--host", "gpu1; touch x"], 2, "gpu1; touch x"),
        (["--rehearse", "--host", "-oProxyCommand=touch x"], 2, "-oProxyCommand"),
        ([], 2, "no host was named; HOST=gpu1"),
        (["--host", "./x", "--nodes", "2"], 2, "NODES=2 needs ENGINE=slurm; make job-run HOSTS="),
        (["--host", "./x", "--gpus", "many"], 2, "GPUS=many is no count"),
        (["--host", "./x", "--nodes", "0"], 2, "NODES=0 is no count"),
        (["--host", "./x", "--budget", "nan"], 2, "BUDGET=nan is no amount of money"),
        (["--host", "./x", "--rate", "-1"], 2, "RATE=-1 is no price of an hour"),
    ],
)
def test_a_wrong_call_ends_before_any_work(command, words, code, expected):
    done = command("pipeline.py", *words)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh on this machine")
def test_a_host_that_is_out_of_reach_is_known_before_any_work(command):
    done = command("pipeline.py", "--rehearse", "--host", "no-such-host.invalid")
    assert done.returncode == 1 and done.stdout == ""
    assert "no-such-host.invalid" in done.stderr and "Traceback" not in done.stderr


def bad_raw(tmp_path, kind):
    raw = tmp_path / "raw"
    raw.mkdir()
    content = {
        "empty folder": None,
        "empty file": b"",
        "binary": bytes(range(256)) * 64,
        "wrong encoding": "title,subreddit\nй,TheOnion\n".encode("utf-16-le")[:-1],
    }[kind]
    if content is not None:
        (raw / "data.csv").write_bytes(content)
    return raw


@pytest.mark.remote_env  # with the other rehearsals: there is one at a time in a checkout
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty folder", "empty file", "binary", "wrong encoding"])
def test_raw_text_that_cannot_be_read_stops_the_rehearsal_with_one_line(tmp_path, kind):
    done = make("rehearse", env={"RAW": str(bad_raw(tmp_path, kind))})
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("pipeline.py: data: ")]
    assert len(lines) == 1
    assert ("data.csv: unreadable" in done.stderr) == (kind != "empty folder")
    assert "Traceback" not in done.stderr + done.stdout


def rehearse(**variables):
    done = make("rehearse", env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((ROOT / ".rehearsal" / "report.json").read_text())
    assert report["after"]["loss"]["value"] < report["before"]["loss"]["value"]
    assert [name for name, _, _ in report["stages"]][-1] == "adapter"
    assert "make pipeline HOST=" in done.stdout
    return report


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_whole_trip_works_on_generated_examples():
    report = rehearse()
    version = ROOT / ".rehearsal" / "laptop" / "adapters" / report["adapter"].replace("@", "/")
    assert (version / "adapter_model.safetensors").is_file() and (version / "card.json").is_file()


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_whole_trip_works_on_real_headlines(samples):
    report = rehearse(RAW=str(samples / "reddit"))
    assert report["after"]["exact_match"]["value"] > report["before"]["exact_match"]["value"]


@pytest.mark.parametrize(
    "run",
    ["../x", "a/b", "/etc", "", ".", "..", "x\n", "\x1b[2J", "-rf", "x" * 200, None, 3, ["a"], {}],
)  # fmt: skip
def test_a_run_id_from_a_host_never_becomes_another_path(run):
    with pytest.raises(console.Problem, match="which is not a run id"):
        trip.checked_run_id({"run": run}, "gpu1")
    assert trip.checked_run_id({"run": "20261121-081530-3f2a"}, "gpu1") == "20261121-081530-3f2a"


@pytest.mark.parametrize(
    "metrics",
    [[], "loss", {"loss": 1}, {"loss": {}}, {"loss": {"value": "1"}}, {"loss": {"value": True}},
     {"loss": {"value": float("nan")}}, {"loss": {"value": float("inf")}}],
)  # fmt: skip
def test_metrics_from_a_host_are_finite_numbers(metrics):
    with pytest.raises(console.Problem, match="gpu1: its answer"):
        trip.checked_metrics(metrics, "gpu1")
    assert trip.checked_metrics(None, "gpu1") == {}
    assert trip.checked_metrics({"f1": {"value": 1}}, "gpu1") == {"f1": {"value": 1}}


@pytest.mark.parametrize("answer", [None, [], {}, {"stages": 3}, {"stages": {"lora": True}}])
def test_a_field_of_a_hosts_answer_has_its_type(answer):
    with pytest.raises(console.Problem, match="has no stages.lora of the expected type"):
        trip.checked_field(answer, "gpu1", "stages", "lora", kind=(dict, int))


@pytest.mark.remote_env
@pytest.mark.slow
def test_the_whole_trip_works_through_a_login_node_of_slurm(tmp_path):
    with SlurmCluster(tmp_path / "slurm") as slurm:
        host = tmp_path / "login"
        report = rehearse(HOST=str(host), ENGINE="slurm", NODES="2", **slurm.variables)
    jobs = sorted(p.name for p in (host / "tandem-rehearsal" / ".jobs").iterdir())
    assert [name.split("-")[2] for name in jobs] == ["evaluate", "train"]
    assert all((host / "tandem-rehearsal" / ".jobs" / n / "job.id").exists() for n in jobs)
    assert report["run"]
