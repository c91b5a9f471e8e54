"""What jobs and idle hosts cost: limits of a job that continues, and the reminder in the table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import pytest

from config.schemas.jobs import HostSection, JobsConfig
from jobs import budget, idle, submission, verbs
from jobs.contract import Job
from kit import console

JOB = Job("train", "folder", ("x",), run_id="r", cap_seconds=3600.0, rate=2.0, budget=2.0)
RENTED = HostSection(rate=1.9, storage_rate=0.0)


def row(**values):
    return {"state": "ended (0)"} | values


@pytest.mark.parametrize(
    ("rows", "clock", "line"),
    [
        ([row(ended=1_000_000)], b"now 1007800\nup 9999999\n", "gpu1 idle 2 h 10 min, about $4.12"),
        ([row(ended=900_000), row(ended=1_000_000)], b"now 1007800\n", "gpu1 idle 2 h 10 min"),
        ([], b"now 1007800\nup 7800\n", "gpu1 idle 2 h 10 min"),
        ([row(ended=1)], b"now 1007800\nup 7800\n", "gpu1 idle 2 h 10 min"),
    ],
)
def test_an_idle_host_is_named_with_its_cost(rows, clock, line):
    assert idle.judge("gpu1", clock, RENTED, rows).line().startswith(line)


@pytest.mark.parametrize(
    ("rows", "clock"),
    [
        ([row(ended=1_000_000)], b"now 1000600\n"),  # ten minutes
        ([row(ended=1_003_600)], b"now 1000000\n"),  # a clock that was set back an hour
        ([], b"now 1007800\n"),  # never a job, and nobody knows since when it runs
        ([row(ended=1)], b""),
        ([row(ended=1)], b"now soon\nup \n"),
        ([row(ended=1)], b"\xff\xfe\x00garbage"),
    ],
)
def test_a_host_of_which_little_is_known_is_not_named(rows, clock):
    assert idle.judge("gpu1", clock, RENTED, rows) is None


class Silent:
    """A host that must not be asked."""

    name = "gpu1"

    def run(self, *words, **options):
        raise AssertionError("asked")


@pytest.mark.parametrize("state", ["running", "queued", "damaged"])
def test_a_host_with_a_job_or_without_a_price_is_not_asked(state):
    assert idle.look(Silent(), RENTED, [row(state=state)]) is None
    assert idle.look(Silent(), None, []) is None
    assert idle.look(Silent(), HostSection(), []) is None
    assert idle.look(Silent(), HostSection(rate=1.0, engine="slurm"), []) is None


def test_a_job_that_used_up_its_limit_is_refused_until_it_gets_a_larger_one():
    budget.refuse_used_up(JOB, 3599.0)
    with pytest.raises(console.Problem, match=r"ran 1 h 00 min \(about 2.00\) and its limit is"):
        budget.refuse_used_up(JOB, 3600.0)
    request = submission.JobRequest("train", budget=4.0)
    more = submission.with_limits(JOB, request, Silent(), JobsConfig())
    assert (more.budget, more.rate, more.cap_seconds) == (4.0, 2.0, 3600 * 4 / 2 - 120)
    budget.refuse_used_up(more, 3600.0)


@pytest.mark.parametrize(
    ("given", "budgeted", "rate", "cap"),
    [
        ({}, 2.0, 2.0, 3600.0),
        ({"rate": 1.0}, 2.0, 1.0, 7080.0),
        ({"time_limit": 3.0}, 0.0, 2.0, 10_800.0),
        ({"budget": 4.0, "time_limit": 1.0}, 4.0, 2.0, 3600.0),
    ],
)
def test_what_a_resume_does_not_give_stays(given, budgeted, rate, cap):
    request = submission.JobRequest("train", **given)
    job = submission.with_limits(JOB, request, Silent(), JobsConfig())
    assert (job.budget, job.rate, job.cap_seconds) == (budgeted, rate, cap)


@pytest.mark.slow
def test_the_table_nags_about_a_rented_host(tmp_path, capsys):
    host = tmp_path / "gpu1"
    folder = host / "tandem" / ".jobs" / "train"
    folder.mkdir(parents=True)
    (folder / "engine.json").write_bytes(dataclasses.replace(JOB, run_id="").to_json())
    (folder / "exit").write_text("0\n")
    ended = time.time() - 7830  # half a minute for a slow machine
    (folder / "lives.jsonl").write_text(
        json.dumps({"began": ended - 60, "ended": ended, "code": 0, "hung": False}) + "\n"
    )
    known = JobsConfig(hosts={str(host): RENTED})
    assert verbs.list_jobs(argparse.Namespace(json=False), known, "") == 0
    assert f"{host} idle 2 h 10 min, about $4.1" in capsys.readouterr().err
    assert verbs.list_jobs(argparse.Namespace(json=True), known, "") == 0
    [named] = json.loads(capsys.readouterr().out)["idle"]
    assert named["cost"] == pytest.approx(4.1, abs=0.1)


def test_the_commands_at_the_end_may_be_variables(monkeypatch):
    class Folder:
        name, is_folder = "./gpu", True

    request = submission.JobRequest("train", words=("true",))
    configured = JobsConfig(at_end={"notify": "mail me", "stop": "shutdown"})
    job = submission.make(request, Folder(), configured)
    assert (job.notify, job.stop_command) == ("mail me", "shutdown")
    monkeypatch.setenv("NOTIFY_CMD", "curl -d done ntfy.sh/me")
    monkeypatch.setenv("STOP_CMD", "runpodctl stop pod x")
    job = submission.make(request, Folder(), configured)
    assert (job.notify, job.stop_command) == ("curl -d done ntfy.sh/me", "runpodctl stop pod x")
