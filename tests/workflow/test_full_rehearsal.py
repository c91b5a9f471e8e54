"""A rehearsal at full size: which rows, which machine, and no number that was not measured."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kit import console
from phantom_gpu import phantom
from support import tiny
from support.checkout import ROOT
from support.model_files import LLAMA
from training import cards, encoding, model_shape
from workflow import full_rehearsal, full_report, timed_training

STAND_IN = {
    "model": {"model_type": "llama", "parameters": 8_030_261_248}, "card": "80 GB",
    "stand_in": True, "rows": 160, "longest": 1400, "max_length": 2048, "steps": 10,
    "resumed": True, "evaluated": True, "whole_steps": 900,
    "memory": {"need": 6e9, "estimated": 9e9, "estimated_longest": 6.1e9, "card_bytes": 80 << 30},
}  # fmt: skip
MEASURED = STAND_IN | {
    "stand_in": False, "card": "NVIDIA H100", "seconds_per_step": 6.5,
    "tokens_per_second": 5041.0, "whole_seconds": 7200.0, "estimated_seconds": 6900.0,
}  # fmt: skip


def test_on_a_stand_in_no_speed_and_no_price_is_printed():
    text = "\n".join(full_report.lines(STAND_IN, 1.9))
    assert "not measured: a stand-in has no speed" in text and "900 steps" in text
    assert "5.6 GB of 80.0 GB at the peak, counted by torch's allocator" in text
    assert "tokens/s" not in text and "an hour" not in text


def test_a_measured_pace_gives_time_and_price_of_the_whole_run():
    text = "\n".join(full_report.lines(MEASURED, 1.9))
    assert "5,041 tokens/s, 6.50 s a step, measured" in text
    assert "900 steps: 2 h 00 min, 3.80 at 1.9 an hour; 1 h 55 min estimated" in text
    assert "its price is unknown" in "\n".join(full_report.lines(MEASURED, None))


def test_without_a_measured_peak_or_pace_the_lines_say_so():
    bare = {k: v for k, v in MEASURED.items() if k not in ("memory", "whole_seconds")}
    text = "\n".join(full_report.lines(bare, 1.9))
    assert "memory   not measured" in text and "not measured: too few steps" in text


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"rows": "160"}, {"stand_in": 1}, {"whole_seconds": float("inf")},
     {"memory": {"need": -1}}, {"memory": []}, {"card": 3}, {"tokens_per_second": "fast"}],
)  # fmt: skip
def test_a_hosts_facts_have_their_types(change):
    assert full_report.checked(dict(MEASURED)) == MEASURED
    with pytest.raises(ValueError):
        full_report.checked(MEASURED | change)


# --- rows, machine, model -------------------------------------------------------------------------


def test_the_longest_rows_are_chosen_line_by_line(tmp_path):
    lengths = {1: [5], 2: [9, 3], 3: [40], 4: [7], 5: [8]}
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f'{{"row": {n}}}\n' for n in lengths)[:-1])
    rows = [(n, {"input_ids": [0] * size}) for n, sizes in lengths.items() for size in sizes]
    coded = encoding.EncodedRows([row for _, row in rows], [n for n, _ in rows])
    out = tmp_path / "new" / "out.jsonl"
    assert full_rehearsal.write_longest(source, coded, 3, out) == [40, 9, 8]
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == [3, 2, 5]
    assert len(full_rehearsal.write_longest(source, coded, 100, out)) == 5


def test_without_a_gpu_and_without_gcc_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(cards, "look", lambda: ([], []))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(console.Problem, match="no NVIDIA GPU here, and no stand-in for one: it "):
        full_rehearsal.choose_device(None)
    monkeypatch.setattr(full_rehearsal, "PHANTOM", tmp_path / "absent.py")
    with pytest.raises(console.Problem, match="tests/phantom_gpu is not in this checkout"):
        full_rehearsal.choose_device("RTX 4090")


def test_a_gpu_that_is_here_is_taken_and_needs_no_variables(monkeypatch):
    card = cards.Card("NVIDIA H100", 80, 350)
    monkeypatch.setattr(cards, "look", lambda: ([card], []))
    assert full_rehearsal.choose_device("RTX 4090") == full_rehearsal.Device(card, False)


def test_a_model_without_config_json_names_the_small_files_to_fetch(tmp_path, monkeypatch):
    from config import loader

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    settings = loader.load("training_config.yaml")
    with pytest.raises(console.Problem, match="hf download meta-llama/Llama-3.1-8B-Instruct"):
        full_rehearsal.find_source(settings, tmp_path / "nothing", [tmp_path])
    home = tmp_path / "home" / "models" / "Llama-3.1-8B-Instruct"
    home.mkdir(parents=True)
    (home / "config.json").write_text("{}")
    assert full_rehearsal.find_source(settings, None, [tmp_path / "home"]) == home


# --- time -----------------------------------------------------------------------------------------


def write_metrics(tmp_path, times):
    run = tmp_path / "adapters" / "runs" / full_rehearsal.RUN
    run.mkdir(parents=True)
    rows = [{"step": step, "time": time, "loss": 1.0} for step, time in times.items()]
    rows.append({"step": 10, "time": 900.0, "eval_loss": 1.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_pace_is_the_median_step_so_that_a_resume_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    assert timed_training.step_seconds(full_rehearsal.RUN) is None
    write_metrics(tmp_path, {1: 100, 2: 102, 3: 104, 4: 106, 5: 108, 6: 160, 7: 162, 8: 164})
    assert timed_training.step_seconds(full_rehearsal.RUN) == 2


def test_the_whole_run_is_scaled_from_the_ten_steps(tmp_path, monkeypatch):
    """Rows of one length: the whole run takes its number of steps times the measured step."""
    from config import loader

    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    write_metrics(tmp_path, {step: 100 + 3 * step for step in range(1, 11)})
    settings = loader.load("training_config.yaml", ["training.num_train_epochs=2"])
    coded = encoding.EncodedRows([{"input_ids": [0] * 500, "labels": [0] * 500}] * 1600)
    device = full_rehearsal.Device(cards.Card("H100", 80, 350), stand_in=False)
    shape = model_shape.of_config(LLAMA)
    facts = full_rehearsal.time_facts(shape, settings, coded, [500] * 160, device)
    assert facts["whole_steps"] == 200 and facts["seconds_per_step"] == 3
    assert facts["whole_seconds"] == pytest.approx(600)
    assert facts["tokens_per_second"] == pytest.approx(16 * 500 / 3)


# --- the commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--full"], "--full is a rehearsal"),
        (["--rehearse", "--gpu", "T4"], "belong to --full"),
        (["--rehearse", "--set", "lora.r=8"], "belong to --full"),
        (["--rehearse", "--full", "--rate", "0"], "is no price of an hour"),
        (["--rehearse", "--full", "--rate", "nan"], "is no price of an hour"),
    ],
)
def test_a_wrong_call_is_one_line(command, words, expected):
    done = command("pipeline.py", *words)
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.remote_env
@pytest.mark.slow
@pytest.mark.skipif(bool(phantom.missing()), reason=f"stand-in GPU: {phantom.missing()}")
def test_a_model_of_holes_trains_stops_resumes_and_evaluates_on_the_stand_in(tmp_path):
    tiny.write_rows(tmp_path)
    miniature = tiny.build(tmp_path / "other", steps=2)
    source = tmp_path / "source"
    shutil.copytree(miniature, source, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"hidden_size": 512}))
    script = str(ROOT / "scripts" / "rehearse_full.py")
    words = [sys.executable, script, "--json", "--gpu", "T4",
             "--source", str(source), "--set", "training.per_device_eval_batch_size=2",
             "--set", "training.gradient_accumulation_steps=1"]  # fmt: skip
    env = os.environ | {"TANDEM_WORKDIR": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=400)
    assert done.returncode == 0, done.stderr
    facts = full_report.checked(json.loads(done.stdout))
    assert facts["stand_in"] and facts["evaluated"] and facts["resumed"]
    assert facts["rows"] == 40 and facts["memory"]["card_bytes"] == 15 << 30
    assert 0 < facts["memory"]["need"] < facts["memory"]["estimated"] * 1.1
    assert "tokens_per_second" not in facts and "whole_seconds" not in facts
    made = tmp_path / "models" / "random" / "model-00001-of-00001.safetensors"
    assert made.stat().st_blocks * 512 < made.stat().st_size
