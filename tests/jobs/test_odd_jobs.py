"""Odd input for jobs: edited and damaged job folders, numbers, a full disk, two laptops at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from config.schemas.jobs import JobsConfig
from jobs import budget, contract, files, submission, table, verbs, watch
from jobs.contract import Job
from kit import console
from support.checkout import ROOT
from support.ended_job import JOB, EndedJobDesk
from support.processes import wait_until


@pytest.fixture
def desk(tmp_path):
    return EndedJobDesk(tmp_path)


EDITED = [
    {"name": "other"}, {"name": 5}, {"name": None}, {"engine": "sky"}, {"engine": "docker"},
    {"engine": ["ssh"]}, {"words": []}, {"words": "sh"}, {"words": [1]}, {"words": {"a": 1}},
    {"run_id": "../../etc"}, {"run_id": 7}, {"run_id": "a b"}, {"nodes": -1}, {"nodes": 1.5},
    {"nodes": 0}, {"nodes": "2"}, {"gpus": -1}, {"gpus": True}, {"cap_seconds": -1.0},
    {"cap_seconds": "60"}, {"cap_seconds": float("nan")}, {"rate": float("inf")}, {"rate": []},
    {"budget": -3}, {"max_restarts": -1}, {"max_restarts": 10**9}, {"hung_factor": None},
    {"hung_seconds": float("-inf")}, {"notify": 1}, {"stop_command": ["x"]}, {"grace_seconds": "x"},
    {"submitted": {}}, {"manifest_sha256": 0}, {"extra": "x"}, {"extra": [None]}, {"surprise": 1},
    {"meeting": 1}, {"address": []}, {"interface": {}},
]  # fmt: skip


@pytest.mark.parametrize("changes", EDITED, ids=str)
def test_each_edited_field_is_one_line_that_names_the_file(desk, changes):
    desk.describe(changes)
    host = desk.host_here()
    try:
        with pytest.raises(console.Problem) as refused:
            submission.required(host, "train")
        row = table.row(host, "train")
    finally:
        host.close()
    line = str(refused.value)
    assert "\n" not in line and refused.value.remedy
    assert row["state"] == "damaged" and ("engine.json: damaged" in line or "a cloud" in line)


def test_every_field_of_a_job_is_among_the_edited_ones():
    assert {f.name for f in dataclasses.fields(Job)} <= {name for case in EDITED for name in case}


GARBAGE = [b"", b"\x00\xff\xfe" * 50, b"[" * 20_000, b"x" * 3_000_000, "folder", "dangling"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["engine.json", "exit", "lives.jsonl", "life.json", "job.id",
                                  "log.txt", "stop", "pid", "status.json"])  # fmt: skip
def test_garbage_in_any_file_of_a_job_is_no_traceback(desk, name):
    place = desk.folder
    if name == "status.json":
        place = desk.there / "adapters" / "runs" / JOB.run_id
    host = desk.host_here()
    for garbage in GARBAGE:
        spoil(place / name, garbage)
        try:
            table.lines([table.row(host, "train")])
            watch.look(host, "train", 0).words()
            submission.required(host, "train")
        except console.Problem as problem:
            assert "\n" not in str(problem) and problem.remedy
    host.close()


def spoil(file, garbage):
    """Put garbage, a folder or a dangling link in the place of a file."""
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    file.unlink(missing_ok=True)
    if garbage == "folder":
        file.mkdir()
    elif garbage == "dangling":
        file.symlink_to("nowhere")
    else:
        file.write_bytes(garbage)


@pytest.mark.slow
@pytest.mark.parametrize("garbage", [b"", b"soon\n", b"\x00\xff", "folder"])
def test_an_exit_file_without_a_code_is_no_end_and_no_endless_watch(desk, garbage):
    spoil(desk.folder / "exit", garbage)
    code, printed = desk.jobs("watch", "train")
    assert code == 1 and "was killed there" in printed
    assert "gone" in desk.jobs("list")[1]


@pytest.mark.slow
def test_a_detached_command_of_the_same_name_is_no_job_and_is_not_written_over(desk):
    words = [str(ROOT / "scripts" / "host_run.sh"), str(desk.host), "--detach", "plain", "--"]
    hold = "while [ ! -e enough ]; do sleep 0.02; done"
    subprocess.run([*words, "sh", "-c", hold], check=True, capture_output=True)
    host = desk.host_here()
    try:
        for verb in ("watch", "stop"):
            code, printed = desk.jobs(verb, "plain")
            assert code == 2 and "plain on" in printed and "host_watch.sh" in printed
        with pytest.raises(console.Problem, match="runs on .*; or give another NAME"):
            submission.submit(host, dataclasses.replace(JOB, name="plain"))
        (desk.there / "enough").touch()
        wait_until((desk.folder.parent / "plain" / "exit").exists)
        assert submission.existing(host, "plain") is None
    finally:
        (desk.there / "enough").touch()
        host.close()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"cap_seconds": -1}, {"words": []}, {"name": 5}], ids=str)
def test_the_supervisor_ends_with_one_line_where_its_job_is_damaged(desk, changes):
    desk.describe(changes)
    (desk.folder / "exit").unlink()
    command = [sys.executable, str(ROOT / "scripts/jobs/supervisor.py"), ".jobs/train"]
    done = subprocess.run(command, cwd=desk.there, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and "damaged" in done.stderr
    assert (desk.folder / "exit").read_text() == "1\n"
    assert "the supervisor failed" in (desk.folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_clock_that_is_an_hour_off_costs_nothing(desk):
    now = time.time()
    status = {"state": "running", "step": 5, "heartbeat": now + 3600, "started": now + 3600}
    run = desk.there / "adapters" / "runs" / JOB.run_id
    (run / "status.json").write_text(json.dumps(status))
    desk.describe({"rate": 2.0})
    lives = [{"began": now, "ended": now - 3600}, {"began": now, "ended": now + 1800}]
    (desk.folder / "lives.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lives))
    code, printed = desk.jobs("costs", "--json")
    assert code == 0 and json.loads(printed.splitlines()[0])["total"] == pytest.approx(1.0)


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["budget", "rate", "time"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), -0.0])
def test_a_number_that_is_none_is_refused_and_never_means_no_limit(name, value):
    args = argparse.Namespace(budget=None, rate=None, time=None, nodes=1, gpus=0)
    verbs._check_numbers(args)
    setattr(args, name, value)
    with pytest.raises(console.Misuse, match=rf"^--{name} .*; give a number above 0"):
        verbs._check_numbers(args)


@pytest.mark.parametrize(("nodes", "gpus"), [(0, 0), (-1, 0), (10_000, 0), (1, -1), (1, 10**9)])
def test_a_count_that_no_job_can_hold_is_refused(nodes, gpus):
    args = argparse.Namespace(budget=None, rate=None, time=None, nodes=nodes, gpus=gpus)
    with pytest.raises(console.Misuse, match="count machines and GPUs"):
        verbs._check_numbers(args)


@pytest.mark.parametrize("hours", [1e-9, 1 / 61, 5e-324])
def test_a_time_limit_below_a_minute_is_refused(hours):
    with pytest.raises(console.Misuse, match=r"it counts hours; give at least a minute"):
        budget.time_seconds(hours)
    assert budget.time_seconds(1e300) == budget.LONGEST_SECONDS
    assert budget.time_seconds(0.025) == 90


@pytest.mark.parametrize("name", ["", "../x", "x; touch y", "*", "$(touch y)", "a b", "Ä", "x\n"])
def test_no_verb_takes_a_name_that_is_none(desk, name):
    """It would become a word of a script there."""
    host = desk.host_here()
    try:
        for look in (submission.required, submission.existing, files.read_folder):
            with pytest.raises(console.Misuse, match="use letters, digits"):
                look(host, name)
    finally:
        host.close()
    assert not (desk.there / "y").exists()


@pytest.mark.parametrize(("amount", "rate"), [(1e300, 1e-300), (1e12, 0.01), (5.0, 1e-12)])
def test_a_budget_for_ever_is_a_limit_that_every_engine_can_write(amount, rate):
    request = submission.JobRequest("x", budget=amount, rate=rate)
    _, cap = submission.limits(request, amount, None, JobsConfig())
    job = dataclasses.replace(JOB, cap_seconds=cap, rate=rate, budget=amount)
    assert contract.parse(job.to_json().decode(), "engine.json").cap_seconds == cap < 1e9


# --- the plan ---------------------------------------------------------------------------------


def plan(desk, words):
    host = desk.host_here()
    try:
        return submission.plan_seconds(host, dataclasses.replace(JOB, words=words))
    finally:
        host.close()


@pytest.mark.slow
def test_a_plan_that_cannot_be_made_says_why(desk, capsys):
    assert plan(desk, ("/bin/sh", "-c", "echo no such rows >&2; exit 2")) is None
    assert "the trainer's plan failed there: no such rows" in capsys.readouterr().err
    with pytest.raises(console.Problem, match="has no training environment; make setup-remote"):
        plan(desk, (".venv-none/bin/python", "x"))
    desk.there.rename(desk.there.with_name("away"))
    with pytest.raises(console.Problem, match="does not exist; make sync-up"):
        plan(desk, ("/bin/sh", "-c", "true"))


# --- a scheduler that fails -------------------------------------------------------------------


def with_scheduler(desk, monkeypatch, sbatch, squeue="exit 0"):
    """The host gets these as its sbatch and squeue: shell texts."""
    tools = desk.host / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("sbatch", sbatch), ("squeue", squeue), ("scancel", "exit 0")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("HOST", str(desk.host))  # the desk's --host is a word of the job's command


SUBMIT = ("run", "new", "--engine", "slurm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sbatch", "line"),
    [
        ("echo 'sbatch: error: no more jobs for you today' >&2; exit 1", "no more jobs for you"),
        (
            "echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1",
            "sbatch has no configuration there, so it is no login node",
        ),
        ("kill -SEGV $$", "Slurm refused the job"),
        ("exit 0", "Slurm refused the job"),
        ("rm -rf .jobs/new; exit 3", "Slurm refused the job"),
    ],
)
def test_a_submission_that_fails_leaves_nothing_that_goes_on(desk, monkeypatch, sbatch, line):
    with_scheduler(desk, monkeypatch, sbatch)
    code, printed = desk.jobs(*SUBMIT, "--", "true")
    assert code == 2 and line in printed and printed.count("\n") == 1
    assert not (desk.there / ".jobs" / "new").exists()
    with_scheduler(desk, monkeypatch, "echo 7", "echo 'PENDING Resources'")
    assert "new is started" in desk.jobs(*SUBMIT, "--", "true")[1]
    assert "new runs already" in desk.jobs(*SUBMIT, "--", "true")[1]


@pytest.mark.slow
def test_a_scheduler_that_fails_after_it_took_the_job_gives_one_job(desk, monkeypatch):
    taken = f"[ ! -e taken ] || case $* in *%Z*) echo 8 {desk.there} ;; *) echo PENDING ;; esac"
    with_scheduler(desk, monkeypatch, "touch taken; echo oops >&2; exit 1", taken)
    code, printed = desk.jobs(*SUBMIT, "--", "true")
    assert code == 0 and "new is started" in printed
    assert (desk.there / ".jobs" / "new" / "job.id").read_text() == "8\n"


@pytest.mark.slow
def test_without_an_answer_what_the_scheduler_may_have_stays_and_is_begun_once(desk, monkeypatch):
    with_scheduler(desk, monkeypatch, "echo 'sbatch: error: Socket timed out' >&2; exit 1")
    code, printed = desk.jobs(*SUBMIT, "--", "true")
    assert code == 1 and "Slurm does not answer" in printed
    assert (desk.there / ".jobs" / "new" / "batch.sh").exists()
    with_scheduler(desk, monkeypatch, "echo 9", "echo 'PENDING Resources'")
    assert "new is started" in desk.jobs(*SUBMIT, "--", "true")[1]


# --- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if os.getuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a small disk needs root and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_there_is_one_line_and_the_earlier_end_stays(small_disk):
    desk = EndedJobDesk(small_disk)
    fill(small_disk)
    code, printed = desk.jobs("resume", "train")
    assert code == 1 and printed.strip().count("\n") == 0 and "space" in printed.lower()
    assert (desk.folder / "exit").read_text() == "143\n"
    assert json.loads((desk.folder / "engine.json").read_text())["run_id"] == JOB.run_id
    (small_disk / "full").unlink()
    code, printed = desk.jobs("resume", "train")
    assert code == 0 and "goes on" in printed
    wait_until(lambda: (desk.folder / "exit").exists() and desk.jobs("list")[1].count("ended (3)"))


def fill(disk):
    """Write until nothing more goes."""
    with open(disk / "full", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.slow
def test_a_disk_that_is_full_while_a_job_runs_does_not_end_the_watch_over_it(small_disk):
    desk = EndedJobDesk(small_disk)
    desk.describe({"words": ["sh", "-c", ": >up; exec sleep 600"], "run_id": ""})
    (desk.folder / "exit").unlink()
    env = os.environ | {"TANDEM_SUPERVISOR_SECONDS": "0.05"}
    command = [sys.executable, str(ROOT / "scripts/jobs/supervisor.py"), ".jobs/train"]
    process = subprocess.Popen(command, cwd=desk.there, env=env)
    wait_until((desk.there / "up").exists)
    fill(small_disk)
    process.terminate()
    wait_until(lambda: not running(process.pid))  # its command ended; `exit` does not fit yet
    (small_disk / "full").unlink()
    assert process.wait(timeout=30) == 143
    assert (desk.folder / "exit").read_text() == "143\n"


def running(pid):
    """Whether the process still has a child."""
    return bool(psutil.Process(pid).children())
