"""Jobs without a host: what engine.json may hold, budgets, the watchdog, Slurm's words."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import budget, contract, files, several, submission, table, watchdog
from jobs.contract import Job
from jobs.engines import ENDED, GONE, QUEUED, RUNNING, slurm, slurm_scripts
from kit import console

JOB = Job("train", "folder", ("python", "x.py"), run_id="20261121-train")


def test_a_job_survives_its_file():
    job = dataclasses.replace(JOB, extra=("--account=x",), cap_seconds=60.5)
    assert contract.parse(job.to_json().decode(), "engine.json") == job


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../x"}, {"name": ""}, {"engine": "docker"}, {"words": []}, {"words": "rm -rf"},
        {"run_id": "../x"}, {"cap_seconds": "60"}, {"cap_seconds": -1}, {"nodes": True},
        {"rate": float("nan")}, {"rate": float("inf")}, {"extra": [1]}, {"surprise": 1},
        {"max_restarts": 10**9},
    ],
    ids=str,
)  # fmt: skip
def test_an_edited_job_is_one_line_and_no_job(change):
    text = json.dumps(json.loads(JOB.to_json()) | change)
    with pytest.raises(
        console.Problem, match=r"^engine.json: damaged \(.*\); submit the job again"
    ):
        contract.parse(text, "engine.json")


@pytest.mark.slow
@settings(deadline=None)
@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_a_job_or_a_problem(text):
    with pytest.raises(console.Problem):
        contract.parse(text, "engine.json")


@settings(deadline=None)
@given(st.text())
def test_any_answer_to_a_look_is_a_folder(text):
    folder = files.parse_folder(text)
    assert folder.exit_code is None or 0 <= folder.exit_code <= 999
    assert isinstance(folder.status, dict) and math.isfinite(folder.now)


def test_the_command_begins_its_run_once_and_then_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert JOB.command()[-2:] == ["--run-id", "20261121-train"]
    run = tmp_path / "adapters" / "runs" / "20261121-train"
    run.mkdir(parents=True)
    (run / "status.json").write_text("{}")
    assert JOB.command()[-2:] == ["--resume", "20261121-train"]


# --- money ------------------------------------------------------------------------------------


def test_a_budget_is_a_time_cap_less_what_the_last_checkpoint_needs():
    assert budget.cap_seconds(15, 1.9, 0.1, 120) == 3600 * 15 / 2.0 - 120


@pytest.mark.parametrize(
    ("amount", "rate", "line"),
    [
        (15, 0, "cannot be kept without the price of an hour; give RATE=1.90"),
        (float("nan"), 2, "BUDGET=nan is no amount of money"),
        (15, float("inf"), "RATE=inf is no amount of money"),
        (-1, 2, "BUDGET=-1 is no amount of money"),
        (0.01, 2, "less than a checkpoint needs; give at least BUDGET=0.13"),
    ],
)
def test_a_budget_that_is_none_is_refused(amount, rate, line):
    with pytest.raises(console.Misuse, match=line):
        budget.cap_seconds(amount, rate, 0, 120)


def test_a_run_that_its_budget_cannot_pay_is_refused_before_it_starts():
    budget.refuse_too_long(3600, 7200, 2.0)
    budget.refuse_too_long(None, 7200, 2.0)
    with pytest.raises(console.Problem, match=r"about 20.00\).*give BUDGET=22, or train less"):
        budget.refuse_too_long(36_000, 7200, 2.0)


def test_what_a_job_took_counts_all_its_lives():
    lives = [{"began": 0, "ended": 1800}, {"began": 5000, "ended": 6800}]
    assert contract.seconds(lives) == 3600
    running = {"began": 10_000, "ended": 11_800}
    assert budget.cost(lives, running, rate=2.0) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("estimate", "seconds"),
    [
        ({"time": {"H100 80 GB": 3600.0}, "assumed_cards": False}, 3600.0),
        ({"time": {"a": 10.0, "b": 20.0}, "assumed_cards": False}, 20.0),
        ({"time": {"RTX 3090 24 GB": 9e4, "H100 80 GB": 3e4}, "assumed_cards": True}, None),
        ({"time": {}, "assumed_cards": False}, None),
        ({"time": {"a": float("nan")}}, None),
        ({"time": "soon"}, None),
        ([], None),
    ],
)
def test_the_plans_time_is_that_of_the_card_that_is_there(estimate, seconds):
    text = "a banner\n" + json.dumps({"plan": {"estimate": estimate}})
    assert submission.parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "nonsense", "{", "{}", '{"plan": null}', "[" * 9999])
def test_a_plan_that_says_nothing_is_no_time(text):
    assert submission.parse_seconds(text) is None


# --- the watchdog -----------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Writes a status.json for JOB's run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "adapters" / "runs" / JOB.run_id
    folder.mkdir(parents=True)
    return lambda **status: (folder / "status.json").write_text(json.dumps(status))


def test_a_run_is_hung_after_ten_median_steps_and_never_before_five_minutes(run):
    watch = watchdog.Watchdog(JOB)
    now = 0.0
    for step in range(5):
        run(step=step, state="running", phase="training")
        assert not watch.hung(now)
        now += 60
    last = now - 60
    assert not watch.hung(last + 600)
    assert watch.hung(last + 601) == "nothing after step 4 for 601 s (limit 600 s)"


def test_short_steps_do_not_shorten_five_minutes(run):
    watch = watchdog.Watchdog(JOB)
    for step in range(5):
        run(step=step, state="running")
        assert not watch.hung(float(step))
    assert not watch.hung(4 + 300.0) and watch.hung(4 + 301.0)


@pytest.mark.parametrize("phase", ["loading", "evaluating", "saving"])
def test_phases_that_take_long_are_given_time(run, phase):
    watch = watchdog.Watchdog(JOB)
    for step in range(3):
        run(step=step, state="running")
        watch.hung(float(step))
    run(step=2, state="running", phase=phase)
    assert not watch.hung(2 + 1000.0)


def test_before_the_first_step_there_is_an_hour(run):
    watch = watchdog.Watchdog(JOB)
    assert not watch.hung(0.0) and not watch.hung(3600.0) and watch.hung(3601.0)


def test_a_finished_run_is_never_hung(run):
    watch = watchdog.Watchdog(JOB)
    run(step=3, state="completed")
    assert not watch.hung(0.0) and not watch.hung(1e6)


# --- Slurm's words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("squeue", "sacct", "kind", "code"),
    [
        ("PENDING", "", QUEUED, None),
        ("PENDING Resources", "", QUEUED, None),
        ("PENDING None", "", QUEUED, None),
        ("RUNNING None", "", RUNNING, None),
        ("CONFIGURING", "", QUEUED, None),
        ("REQUEUED", "", QUEUED, None),
        ("RUNNING", "", RUNNING, None),
        ("COMPLETING", "", RUNNING, None),
        ("", "COMPLETED|0:0", ENDED, 0),
        ("", "FAILED|3:0", ENDED, 3),
        ("", "CANCELLED by 1000|0:15", GONE, None),
        ("", "TIMEOUT|0:0", GONE, None),
        ("", "NODE_FAIL|1:0", GONE, None),
        ("", "PREEMPTED|0:0", GONE, None),
        ("", "OUT_OF_MEMORY|0:125", GONE, None),
        ("", "RUNNING|0:0", RUNNING, None),
        ("", "", GONE, None),
        ("garbage", "", GONE, None),
    ],
)
def test_every_word_of_slurm_is_a_state(squeue, sacct, kind, code):
    state = slurm.parse_state(squeue, sacct)
    assert (state.kind, state.code) == (kind, code)


@pytest.mark.parametrize(
    ("text", "number"),
    [("123", "123"), ("123;cluster", "123"), ("123\n", "123"), ("", ""), ("x1", ""), ("1 2", "")],
)
def test_the_id_is_read_out_of_what_sbatch_prints(text, number):
    assert slurm.parse_id(text) == number


def test_the_batch_script_asks_for_what_the_job_needs():
    job = dataclasses.replace(
        JOB, engine="slurm", nodes=2, gpus=8, cap_seconds=3700, extra=("--account=x",)
    )
    lines = slurm_scripts.batch_script(job).splitlines()
    for line in ("--requeue", "--open-mode=append", "--signal=B:USR2@300", "--nodes=2",
                 "--time=1:01:40", "--gpus-per-node=8", "--account=x"):  # fmt: skip
        assert f"#SBATCH {line}" in lines


@pytest.mark.parametrize(
    ("option", "seconds", "warning"),
    [
        ("--time=90", 5400, 300), ("--time 1", 60, 30), ("-t10", 600, 150), ("-t 2:30", 150, 37),
        ("--time=24:00:00", 86_400, 300), ("--time=1-0", 86_400, 300),
        ("--time=1-12:30", 131_400, 300), ("--time=0-0:01:00", 60, 30),
        ("--time=UNLIMITED", 0, 300), ("--time-min=5", 0, 300), ("--account=t", 0, 300),
    ],
)  # fmt: skip
def test_the_sites_time_sets_how_early_slurm_warns(option, seconds, warning):
    job = dataclasses.replace(JOB, engine="slurm", extra=("--account=x", option))
    assert slurm_scripts.site_seconds(job.extra) == seconds
    assert f"#SBATCH --signal=B:USR2@{warning}\n" in slurm_scripts.batch_script(job)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("sbatch: error: invalid partition specified: none sbatch: error: Batch job "
         "submission failed: Invalid partition name specified", 2,
         "Slurm refused the job (Invalid partition name specified)"),
        ("sbatch: error: PartitionTimeLimit", 2, "refused the job (PartitionTime"),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller "
         "(connect failure)", 1, "Slurm does not answer (Unable to contact"),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv "
         "operation", 1, "Slurm does not answer (Socket timed out"),
        ("odd", 2, "Slurm refused the job (odd"),
    ],
)  # fmt: skip
def test_a_refusal_is_the_callers_unless_slurm_does_not_answer(text, code, line):
    problem = slurm.refusal("login", text)
    assert problem.code == code and line in problem.text


@pytest.mark.parametrize("option", ["--wrap=x; rm -rf ~", "-p main\nrm", "account=x", "--x=$(id)"])
def test_a_site_option_that_is_no_option_is_refused(option):
    with pytest.raises(console.Misuse, match="cannot be passed on"):
        slurm.check_extra((option,))


def test_ordinary_site_options_pass():
    slurm.check_extra(("--account=x", "--constraint=a100&nvlink", "--gres=gpu:h100:4", "-p main"))


# --- the table --------------------------------------------------------------------------------


def test_the_table_shows_what_is_known_and_a_dash_for_the_rest():
    rows = [
        {"job": "train", "host": "gpu1", "engine": "ssh", "state": "running", "step": "120/900",
         "loss": 1.23456, "eta_seconds": 75.0, "gpu": "87 % 21/80 GB",
         "heartbeat_seconds": 3.0, "cost": 4.1},
        {"job": "x", "host": "gpu1", "engine": None, "state": "damaged", "why": "…"},
    ]  # fmt: skip
    head, first, second = table.lines(rows)
    assert head.split() == list(table.COLUMNS)
    assert (
        "1.235" in first
        and "1 min 15 s" in first
        and "87 % 21/80 GB" in first
        and first.endswith("4.10")
    )
    assert second.split() == ["x", "gpu1", "-", "damaged", "-", "-", "-", "-", "-", "-"]


def test_costs_count_jobs_of_unknown_rate_beside_the_sum():
    rows = [
        {"job": "train", "host": "gpu1", "state": "running", "seconds": 7200.0, "cost": 3.8},
        {"job": "other", "host": "gpu1", "state": "ended (0)", "seconds": 5.0, "cost": None},
        {"job": "x", "host": "gpu1", "state": "damaged", "cost": None},
    ]
    head, first, second, third, last = table.cost_lines(rows, 3.8)
    assert head.split() == ["job", "host", "time", "cost"]
    assert first.endswith("2 h 00 min  3.80") and second.endswith("rate unknown")
    assert "damaged" in third and last.split("  ")[-1].strip() == "3.80 and 2 of unknown cost"


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 65])
def test_a_name_that_is_no_name_is_refused(name):
    class Nowhere:
        name, is_folder = "gpu1", False

    with pytest.raises(console.Misuse, match="use letters, digits"):
        submission.make(submission.JobRequest(name), Nowhere(), None)


# --- several hosts ----------------------------------------------------------------------------

ALIKE = {"torch": "2.9.1", "driver": "550.54", "gpus": "2", "address": "10.9.0.3"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"torch": "2.8.0"}, "gpu1 has torch 2.9.1 and gpu2 has torch 2.8.0"),
        ({"driver": "535.104"}, "gpu1 has driver 550.54 and gpu2 has driver 535.104"),
        ({"driver": ""}, "gpu1 has driver 550.54 and gpu2 has driver none"),
        ({"gpus": "4"}, "gpu1 has gpus 2 and gpu2 has gpus 4"),
        ({"torch": ""}, "gpu2 has no training environment; make setup-remote HOST=gpu2"),
        ({"address": "10.9.0.3"}, "gpu1 and gpu2 are one machine"),
    ],
)
def test_hosts_that_differ_are_refused_with_both_values(change, line):
    facts = {"gpu1": ALIKE, "gpu2": ALIKE | {"address": "10.9.0.2"} | change}
    with pytest.raises(console.Problem, match=line):
        several.refuse_unlike(facts)


def test_hosts_that_are_alike_meet_at_the_lowest_address():
    facts = {"gpu1": ALIKE, "gpu2": ALIKE | {"address": "10.9.0.2", "interface": "eth1"}}
    several.refuse_unlike(facts)
    order = several.in_order(facts)
    first, second = several.jobs(JOB, facts, order)
    assert order == ["gpu2", "gpu1"] and first.meeting == second.meeting
    assert first.meeting.startswith("10.9.0.2:") and second.address == "10.9.0.3"
    assert (first.nodes, first.gpus) == (2, 2)
    assert first.environment(Path(".jobs/x"))["NCCL_SOCKET_IFNAME"] == "eth1"
    assert "--nnodes 2 --nproc-per-node 2" in several.launch_script(first)
