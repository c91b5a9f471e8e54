"""Preferences, two cards, an evaluation and the server on stand-in cards, with a small model."""

import json

import pytest

from phantom_gpu import phantom
from support import phantom_runs as runs
from support import tiny
from support.data_room import write
from training import saving

pytestmark = [
    pytest.mark.remote_env,
    pytest.mark.slow,
    pytest.mark.skipif(bool(phantom.missing()), reason=f"stand-in GPU: {phantom.missing()}"),
]
SMALL = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "dtype": "bfloat16",
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip
PREFERENCES = {
    "enabled": "true", "model.model_name_or_path": "models/random", "reward_funcs": "[f1]",
    "data.max_prompt_length": 64, "training.max_steps": 2, "training.logging_steps": 1,
    "training.per_device_train_batch_size": 4, "training.per_device_eval_batch_size": 4,
    "training.gradient_accumulation_steps": 1, "training.eval_steps": 2, "training.save_steps": 2,
    "grpo.num_generations": 4, "grpo.max_completion_length": 8, "rloo.num_generations": 4,
    "rloo.max_completion_length": 8, "safety.min_free_disk_gb": 0.1,
}  # fmt: skip


def answer(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = runs.make_work(tmp_path_factory.mktemp("commands"), SMALL, 60)
    row = {"prompt": [{"role": "user", "content": "Why?"}],
           "chosen": answer("It is cold."), "rejected": answer("It is hot.")}  # fmt: skip
    for name, count in (("train", 24), ("val", 4)):
        write(folder / "data" / "processed" / f"{name}_preference.jsonl", [row] * count)
    return folder


def preference(work, name, script, *words, **changes):
    """(exit code, stderr, run folder) of a preference training in 4 bits."""
    named = ("--confirm-run", "--run-id", name, *words, *tiny.set_words(PREFERENCES, changes))
    process = runs.start(work, script, *named)
    _, err = process.communicate(timeout=400)
    return process.returncode, err, work / "adapters" / "runs" / name


@pytest.fixture(scope="module")
def reward(work):
    """The run of a reward model, which ppo scores with."""
    code, err, run = preference(work, "reward", "reward_model.py")
    assert code == 0, err
    return run


def test_a_reward_model_is_trained(reward):
    assert runs.status(reward)["state"] == "completed" and runs.status(reward)["step"] == 2
    assert runs.facts(reward)["memory"]["card"] == "stand-in sm_90"


@pytest.mark.parametrize("algorithm", ["dpo", "grpo", "rloo"])
def test_preferences_are_trained_on(work, algorithm):
    code, err, run = preference(work, algorithm, "ppo_trainer.py", "--algorithm", algorithm)
    assert code == 0, err
    assert runs.status(run)["state"] == "completed" and runs.status(run)["step"] == 2
    saving.check_adapter(run / "final", 7 * 2)


def test_ppo_trains_a_new_adapter_with_the_reward_model(work, reward):
    words = ("--algorithm", "ppo", "--reward-model", reward.name)
    changes = {"reward_funcs": "[reward_model]", "ppo__response_length": 8}
    code, err, run = preference(work, "ppo", "ppo_trainer.py", *words, **changes)
    assert code == 0, err
    assert runs.status(run)["state"] == "completed" and runs.status(run)["step"] == 2
    saving.check_adapter(run / "final", 7 * 2)


def test_a_sharded_model_on_two_cards_leaves_a_whole_adapter(work):
    """FSDP with a base in 4 bits; without validation, whose losses are noise here."""
    code, err, run = runs.train(
        work, "sharded", "--config", "training_config_fsdp.yaml", "--gpus", "2",
        card={"cards": 2, "gloo": 1}, training__max_length=128, training__max_steps=2,
        data__val_file="null",
    )  # fmt: skip
    assert code == 0, err
    assert runs.facts(run)["world_size"] == 2 and runs.status(run)["state"] == "completed"
    saving.check_adapter(run / "final", 7 * 2)
    saving.check_names(run / "checkpoints" / "checkpoint-2", 7 * 2)


def test_two_cards_train_one_adapter_with_the_configured_batch_on_each(work):
    code, err, run = runs.train(
        work, "two", "--gpus", "2", card={"cards": 2, "gloo": 1}, training__max_length=128
    )
    assert code == 0, err
    assert runs.facts(run)["world_size"] == 2
    assert runs.status(run)["epoch"] == 4 * 4 * 2 / 64
    saving.check_adapter(run / "final", 7 * 2)


def test_a_card_that_is_lost_in_an_evaluation_is_one_line(work):
    words = ["--model", "models/random", "--dataset", "data/processed/val_sft.jsonl"]
    process = runs.start(work, "eval.py", *words, card={"lost": 50, "words": "GPU is lost"})
    _, err = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in err
    assert "the GPU failed (CUDA error: GPU is lost)" in err.splitlines()[-1]


def test_bitsandbytes_that_ends_an_evaluation_is_one_line_with_what_to_lower(work):
    words = ["--model", "models/random", "--dataset", "data/processed/val_sft.jsonl"]
    words += ["--set", "quantization.load_in_4bit=true"]
    process = runs.start(work, "eval.py", *words, card={"full": 5})
    _, err = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert "eval.py: out of GPU memory (stand-in sm_90: 80.0 GB" in last
    assert "lower, in this order: 1. --batch-size" in last


def test_bitsandbytes_that_ends_the_server_is_one_line_with_what_to_lower(work):
    words = ("--base", str(work / "models" / "random"), "--load-in-4bit", "--port", "0")
    process = runs.start(work, "model_server.py", *words, card={"full": 5})
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1 and "Traceback" not in err and out == ""
    last = err.splitlines()[-1]
    assert "model_server.py: out of GPU memory" in last and "1. --rows" in last


def test_the_server_answers_from_a_base_in_four_bits(work):
    import httpx

    words = ("--base", str(work / "models" / "random"), "--load-in-4bit", "--port", "0", "--json")
    process = runs.start(work, "model_server.py", *words)
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        url = json.loads(line)["url"]
        asked = {"model": "random", "prompt": ["Hi", "Hello"], "max_tokens": 4}
        given = httpx.post(f"{url}/completions", json=asked, timeout=100)
        assert given.status_code == 200, given.text
        assert [c["finish_reason"] for c in given.json()["choices"]] == ["length", "length"]
        assert given.json()["usage"]["completion_tokens"] == 8
    finally:
        process.terminate()
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0 and "Traceback" not in err
