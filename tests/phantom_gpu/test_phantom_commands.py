"""Preference training, two cards and the server on stand-in cards, with a small model."""

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
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257,
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


def preference(work, name, script, *words):
    """(exit code, stderr, run folder) of a preference training in 4 bits."""
    named = ("--confirm-run", "--run-id", name, *words, *tiny.set_words(PREFERENCES, {}))
    process = runs.start(work, script, *named)
    _, err = process.communicate(timeout=400)
    return process.returncode, err, work / "adapters" / "runs" / name


def test_a_reward_model_is_trained(work):
    code, err, run = preference(work, "reward", "reward_model.py")
    assert code == 0, err
    assert runs.status(run)["state"] == "completed" and runs.status(run)["step"] == 2
    assert runs.facts(run)["memory"]["card"] == "stand-in sm_90"


@pytest.mark.parametrize("algorithm", ["dpo", "grpo"])
def test_preferences_are_trained_on(work, algorithm):
    code, err, run = preference(work, algorithm, "ppo_trainer.py", "--algorithm", algorithm)
    assert code == 0, err
    assert runs.status(run)["state"] == "completed" and runs.status(run)["step"] == 2
    saving.check_adapter(run / "final", 7 * 2)


def test_two_cards_train_one_adapter_with_the_configured_batch_on_each(work):
    code, err, run = runs.train(
        work, "two", "--gpus", "2", card={"cards": 2, "gloo": 1}, training__max_length=128
    )
    assert code == 0, err
    assert runs.facts(run)["world_size"] == 2
    assert runs.status(run)["epoch"] == 4 * 4 * 2 / 64
    saving.check_adapter(run / "final", 7 * 2)


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
