"""Training on stand-in cards: memory against the formula, full memory, signals, a lost card."""

import json
import os
import signal

import pytest

from phantom_gpu import phantom
from support import phantom_runs as runs
from support.processes import wait_until
from training import saving

pytestmark = [
    pytest.mark.remote_env,
    pytest.mark.slow,
    pytest.mark.skipif(bool(phantom.missing()), reason=f"stand-in GPU: {phantom.missing()}"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return runs.make_work(tmp_path_factory.mktemp("phantom"))


PLAIN = {"quantization__load_in_4bit": "false"}
FP16 = {"model__dtype": "float16", "training__bf16": "false", "training__fp16": "true",
        "quantization__bnb_4bit_compute_dtype": "float16"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("four-bits", {}),
        ("bfloat16", PLAIN),
        ("float16", FP16),
        ("kept", {"training__gradient_checkpointing": "false"}),
        ("no-dropout", {"lora__lora_dropout": 0, "training__optim": "adamw_torch"}),
    ],
)
def test_a_training_takes_the_memory_that_the_plan_says(work, name, changes):
    """Within 10 % of what torch's allocator counted; the adapter is whole."""
    code, err, run = runs.train(work, name, **changes)
    assert code == 0, err
    memory = runs.facts(run)["memory"]
    assert memory["card"] == "stand-in sm_90" and "GPU memory:" in err
    estimated = (memory["estimated"] - (1 << 29)) / 1.1
    assert memory["peak_allocated"] == pytest.approx(estimated, rel=0.1)
    saving.check_adapter(run / "final", 7 * 24)
    assert runs.status(run)["state"] == "completed"


@pytest.mark.parametrize(("gigabytes", "changes"), [(1.4, PLAIN), (1.6, {}), (2.2, PLAIN)])
def test_a_card_that_is_too_small_is_one_line_with_what_to_lower(work, gigabytes, changes):
    """While the model is loaded (the first), and in the first step."""
    name = f"small-{gigabytes}"
    code, err, run = runs.train(work, name, card={"gigabytes": gigabytes}, **changes)
    assert code == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert f"out of GPU memory (stand-in sm_90: {gigabytes:.1f} GB" in last
    assert "lower, in this order: 1. " in last and "estimated need" in last
    status = runs.status(run)
    assert status["state"] == "failed" and "out of GPU memory" in status["error"]


def test_a_full_card_in_cublas_words_is_the_same_line(work):
    code, err, run = runs.train(work, "cublas", card={"no_cublas": 1})
    assert code == 1 and "Traceback" not in err
    assert "out of GPU memory" in err.splitlines()[-1]
    assert "out of GPU memory" in runs.status(run)["error"]


@pytest.mark.parametrize("launch", [30, 4000])
def test_bitsandbytes_that_ends_the_process_is_the_same_line(work, launch):
    """It calls exit(1) itself: while the base is loaded in 4 bits, and in a step."""
    name = f"ended-{launch}"
    code, err, run = runs.train(work, name, card={"full": launch})
    assert code == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert "lora_trainer.py: out of GPU memory (stand-in sm_90: 80.0 GB" in last
    assert "lower, in this order: 1. " in last and "estimated need" in last
    assert runs.status(run)["state"] == "failed"
    assert "out of GPU memory" in runs.status(run)["error"]


def test_a_card_that_is_lost_is_one_line_and_the_run_can_go_on(work):
    code, err, run = runs.train(work, "lost", card={"lost": 9000}, training__max_steps=400)
    assert code == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert "the GPU failed" in last and "unspecified launch failure" in last
    assert "--resume" in last
    assert runs.status(run)["state"] == "failed" and "the GPU failed" in runs.status(run)["error"]


def test_a_card_without_bfloat16_is_refused_with_the_settings_for_float16(work):
    code, err, run = runs.train(work, "turing", card={"sm": 75})
    assert code == 1 and not run.exists()
    assert "computes no bfloat16" in err.splitlines()[-1]
    assert "--set model.dtype=float16" in err.splitlines()[-1]


@pytest.mark.parametrize("whom", ["process", "group"])
def test_term_ends_a_training_with_a_checkpoint(work, whom):
    run = work / "adapters" / "runs" / whom
    words = ("--confirm-run", "--run-id", whom, *runs.options(training__max_steps=4000))
    process = runs.start(work, "lora_trainer.py", *words)
    file = run / "status.json"
    wait_until(lambda: file.exists() and runs.status(run)["step"] >= 2, process)
    if whom == "group":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    status = runs.status(run)
    assert status["state"] == "stopped"
    folder = run / "checkpoints" / f"checkpoint-{status['step']}"
    assert (folder / "trainer_state.json").is_file()
    saving.check_names(folder, 7 * 24)


def test_of_two_cards_one_is_used_and_the_batch_is_the_configured_one(work):
    code, err, run = runs.train(work, "alone", card={"cards": 2})
    assert code == 0, err
    assert runs.facts(run)["world_size"] == 1
    assert runs.status(run)["epoch"] == 4 * 4 / 64


def test_an_adapter_and_its_base_are_evaluated(work):
    """eval.py loads both in 4 bits, generates and measures losses; its report has both columns."""
    code, err, run = runs.train(work, "measured", training__max_steps=2)
    assert code == 0, err
    rows = work / "data" / "processed" / "val_sft.jsonl"
    words = ["--model", str(run), "--dataset", str(rows), "--max-new-tokens", "8", "--json"]
    process = runs.start(work, "eval.py", *words, "--out-dir", str(work / "reports"))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["metrics"]["exact_match"]["value"] == 0 and report["base"]
