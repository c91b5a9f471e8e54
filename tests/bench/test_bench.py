"""Each benchmark runs to its end with its smallest size; what it measures there means nothing."""

import json
import os
import re
import subprocess

import pytest

from support.checkout import ROOT

RUN = ROOT / "tests" / "bench" / "run.sh"
LOCAL, REMOTE = ("environments", "transfer", "data", "embeddings"), (
    "training", "evaluation", "serving")  # fmt: skip


def bench(*words, env=None):
    return subprocess.run(
        [RUN, *words], cwd=ROOT, capture_output=True, text=True, timeout=600,
        stdin=subprocess.DEVNULL, env=os.environ | (env or {}),
    )  # fmt: skip


def smallest(name):
    done = bench(name, "--smallest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_run_names_its_benchmarks_and_every_file_is_one():
    help_text = bench("--help").stdout
    files = {path.stem for path in RUN.parent.iterdir() if path.suffix in (".py", ".sh")}
    for name in files - {"run", "test_bench"}:
        assert name in help_text and name in LOCAL + REMOTE
    wrong = bench("speed")
    assert wrong.returncode == 2 and "nothing to measure is named speed" in wrong.stderr


def test_every_measured_number_has_the_commit_that_it_was_measured_at():
    table = re.findall(r"^\|(.+)\|$", (ROOT / "docs" / "BENCHMARKS.md").read_text(), re.M)
    rows = [[cell.strip() for cell in line.split("|")] for line in table]
    measured, at = rows[0].index("measured"), rows[0].index("at")
    numbers = [row for row in rows[2:] if re.search(r"\d", row[measured])]
    assert len(numbers) > 10
    assert [row[0] for row in numbers if not re.fullmatch(r"[0-9a-f]{7,40}", row[at])] == []


@pytest.mark.slow
def test_the_data_benchmark_runs():
    result, many = map(json.loads, smallest("data").splitlines()[-2:])
    assert result["headlines"]["rows"] == 40 and result["html_f1"] == 1
    assert [run["rows"] for run in many["runs"]] == [10, 100] and 0 < many["peak_gb"] < 1
    assert result["retrieval"]["questions"] > 0


@pytest.mark.slow
def test_the_environments_benchmark_runs():
    rows = re.findall(r"^(.+?) +[\d.]+ s +[\d.]+x$", smallest("environments"), re.M)
    assert [row.partition(":")[0] for row in rows] == ["first set-up"] * 4 + ["nothing to do"] * 2


@pytest.mark.slow
def test_the_transfer_benchmark_runs():
    if subprocess.run([ROOT / "tests" / "sshd.sh", "available"], capture_output=True).returncode:
        pytest.skip("no sshd")
    assert len(re.findall(r"[\d.]+ +[\d.]+ +[\d.]+x", smallest("transfer"))) == 6


@pytest.mark.slow
def test_the_embeddings_benchmark_runs():
    if subprocess.run([ROOT / "tests" / "sshd.sh", "available"], capture_output=True).returncode:
        pytest.skip("no sshd")
    pytest.importorskip("paramiko")
    out = smallest("embeddings")
    assert "merge command" in out and len(re.findall(r"fetch +\d+ MB/s", out)) == 2


@pytest.mark.slow
@pytest.mark.remote_env
def test_the_training_benchmark_runs():
    assert re.search(r"lora_trainer / bare TRL: [\d.]+ \(", smallest("training"))


@pytest.mark.slow
@pytest.mark.remote_env
def test_the_evaluation_benchmark_runs():
    result = json.loads(smallest("evaluation").splitlines()[-1])
    assert result["scoring"]["ratio"] > 0 and result["generation"]["speed-up"] > 0


@pytest.mark.slow
@pytest.mark.remote_env
def test_the_serving_benchmark_runs():
    out = smallest("serving")
    assert re.search(r"model_server / transformers serve: [\d.]+", out) and " 0 failed" in out
    mixed = bench("serving", "--adapters", "--smallest").stdout
    assert re.search(r"two adapters mixed / one: [\d.]+ \(PEFT's hooks: [\d.]+\)", mixed)
