"""The gate: what may be registered beside the best version on the same evaluation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from adapters import gate
from support import adapter_runs


@pytest.fixture
def register(manage, tmp_path):
    """register(report, *options): a new run with that report becomes the next version."""
    count = iter(range(100))

    def run(report, *options, fails: int = 0):
        seed = next(count)
        folder = adapter_runs.run(
            tmp_path, f"r{seed}", adapter_runs.tensors(seed=seed), report=report
        )
        done = manage("register", folder, "--name", "m", "--json", *options, fails=fails)
        return json.loads(done.stdout) | {"stderr": done.stderr}

    return run


def test_a_drop_beyond_the_interval_is_refused_and_nothing_is_published(register, tmp_path):
    register(adapter_runs.report(0.60))
    answer = register(adapter_runs.report(0.54), fails=1)
    assert "worse than m@v1.0.0 on the same evaluation: f1 0.54 (best 0.6, at least 0.55 needed)" \
        in answer["error"]  # fmt: skip
    assert [p.name for p in (tmp_path / "adapters" / "m").iterdir()] == ["v1.0.0"]


def test_a_drop_within_the_interval_passes(register):
    register(adapter_runs.report(0.60))
    answer = register(adapter_runs.report(0.56))
    assert answer["gate"]["status"] == "passed"
    assert answer["gate"]["compared_with"] == "m@v1.0.0"


def test_force_needs_a_reason_and_keeps_it(register, manage):
    register(adapter_runs.report(0.60))
    register(adapter_runs.report(0.30), "--force", " ", fails=2)
    register(adapter_runs.report(0.30), "--force", "half the size")
    card = json.loads(manage("show", "m", "--json").stdout)
    assert card["gate"]["status"] == "forced" and card["gate"]["reason"] == "half the size"
    assert "half the size" in manage("show", "m").stdout


def test_the_best_is_compared_not_the_latest(register):
    register(adapter_runs.report(0.60))
    register(adapter_runs.report(0.56))
    answer = register(adapter_runs.report(0.52), fails=1)
    assert "worse than m@v1.0.0" in answer["error"]


def test_a_retired_version_sets_no_bar(register, manage):
    register(adapter_runs.report(0.90))
    manage("retire", "m@v1.0.0", "--reason", "trained on the validation rows")
    assert register(adapter_runs.report(0.60))["gate"]["status"] == "first"


def test_scores_of_another_data_set_or_another_retrieval_are_not_compared(register):
    register(adapter_runs.report(0.90))
    other = adapter_runs.report(0.40, dataset="e" * 64)
    assert register(other)["gate"]["status"] == "first"
    with_rag = adapter_runs.report(0.40) | {"rag": {"collection": "pdf_docs", "top_k": 3}}
    assert register(with_rag)["gate"]["status"] == "first"


def test_every_metric_counts_and_loss_is_better_when_lower(register):
    register(adapter_runs.report(0.60, rouge_l=0.5, loss=1.0))
    assert "rouge_l 0.3" in register(adapter_runs.report(0.7, rouge_l=0.3), fails=1)["error"]
    assert "loss 1.2 (best 1, at most 1.05 needed)" in register(
        adapter_runs.report(0.7, loss=1.2), fails=1)["error"]  # fmt: skip
    register(adapter_runs.report(0.60, rouge_l=0.5, loss=0.2))


def test_an_adapter_below_its_base_is_registered_with_a_warning(register):
    answer = register(adapter_runs.report(0.30, base=0.60))
    assert answer["gate"]["status"] == "below_base" and "f1" in answer["stderr"]


def test_the_paired_difference_decides_about_the_base_where_it_is_known(register):
    """Intervals side by side overlap here, the paired one does not hold zero."""
    report = adapter_runs.report(0.58, base=0.60)
    report["difference"] = {"f1": {"value": -0.02, "low": -0.03, "high": -0.01}}
    assert register(report)["gate"]["below_base"] == ["f1"]


def test_a_run_without_evaluation_is_registered_and_says_so(register, manage):
    answer = register(None)
    assert answer["gate"] == {"status": "unevaluated"} and "eval.py" in answer["stderr"]


def test_a_report_without_metrics_or_with_damage_is_said(register, manage, tmp_path):
    assert "no metrics in it" in register({"dataset": {}})["stderr"]
    run = adapter_runs.run(tmp_path, "broken")
    (run / "report.json").write_text("{")
    done = manage("register", run, "--name", "m", fails=1)
    assert "report.json: damaged (not JSON)" in done.stderr


def test_a_bound_that_is_no_number_is_unknown_and_does_not_keep_the_gate_open(register, manage):
    nan = adapter_runs.report(0.60, loss=1.0)
    nan["metrics"]["loss"] |= {"low": float("nan"), "high": float("inf")}
    nan["metrics"]["bleu"] = {"value": float("nan"), "low": None, "high": None}
    register(nan)
    card = json.loads(manage("show", "m", "--json").stdout)
    assert card["evaluation"]["metrics"]["loss"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert "bleu" not in card["evaluation"]["metrics"]
    worse = register(adapter_runs.report(0.60, loss=1.2), fails=1)
    assert "loss 1.2 (best 1, at most 1 needed)" in worse["error"]


def test_a_card_that_holds_nan_sets_a_bar_all_the_same():
    nan = {"value": 1.0, "low": float("nan"), "high": float("nan")}
    old = SimpleNamespace(reference="m@v1.0.0", card={"evaluation": {
        "dataset": {"sha256": "d" * 64}, "metrics": {"f1": {"value": 0.6, "low": 0.5, "high": 0.7},
                                                     "loss": nan}, "base": {}}})  # fmt: skip
    new = old.card["evaluation"] | {"metrics": {"f1": {"value": 0.6}, "loss": {"value": 1.2}}}
    _, metrics = gate.best(new, [old])
    assert [drop["metric"] for drop in gate.drops(new["metrics"], metrics)] == ["loss"]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"metrics": {"f1": {"value": 0.5, "low": "b"}}}, "metrics.f1.low is no number"),
        ({"metrics": {"f1": 0.5}, "dataset": ["rows"]}, "its dataset is damaged"),
    ],
)
def test_a_damaged_report_is_refused_before_a_version_exists(register, tmp_path, report, expected):
    assert f"report.json: {expected}; measure it again" in register(report, fails=1)["error"]
    assert not (tmp_path / "adapters" / "m").exists()


def test_a_card_that_nobody_could_read_is_not_published(manage, tmp_path):
    run = adapter_runs.run(tmp_path)
    (run / "status.json").write_text(json.dumps({"run_id": 5, "state": "completed"}))
    done = manage("register", run, "--name", "m", fails=1)
    assert "card.json would not be readable" in done.stderr
    assert not list((tmp_path / "adapters" / "m").iterdir())


def test_another_report_than_the_runs_own_can_be_given(register, manage, tmp_path):
    report = tmp_path / "eval_m.json"
    report.write_text(json.dumps(adapter_runs.report(0.7)))
    (tmp_path / "eval_m.html").write_text("<p>")
    assert register(None, "--report", report)["gate"]["status"] == "first"
    folder = tmp_path / "adapters" / "m" / "v1.0.0"
    assert (folder / "report.html").read_text() == "<p>"
    assert "no report at" in register(None, "--report", tmp_path / "x.json", fails=2)["error"]
