"""dpo, grpo, rloo and ppo on a miniature: each improves its own objective, and refuses nonsense."""

import json
import os
import signal
import types

import pytest

import ppo_trainer
from kit import console
from rlhf import preference_rows, rewards
from support import preferences

# --- parts that need no training stack ---------------------------------------------------------


def settings(*overrides):
    from config import loader

    return loader.load("rlhf.yaml", overrides, kind="rlhf")


def test_it_is_disabled_as_it_comes():
    assert settings().enabled is False


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["algorithm=ppo", "reward_funcs=[f1]"], "ppo takes [reward_model] alone"),
        (["algorithm=grpo", "grpo.num_generations=5"], "no multiple of grpo.num_generations"),
        (["algorithm=ppo", "ppo.num_mini_batches=3"], "no multiple of ppo.num_mini_batches"),
        (["reward_weights=[1.0, 2.0]"], "2 reward_weights for 1 reward_funcs"),
        (["data.max_prompt_length=1024"], "leaves no room for an answer"),
        (["ppo.kl_coeff=1"], "did you mean kl_coef"),
    ],
)
def test_settings_that_cannot_work_are_said_before_anything_starts(overrides, expected):
    with pytest.raises(console.Misuse) as misuse:
        settings(*overrides)
    assert expected in str(misuse.value)


def test_reward_functions_give_more_for_better():
    rows = [types.SimpleNamespace(messages=[{"content": "It is cold."}])]
    tokenizer = types.SimpleNamespace(eos_token_id=9)
    names = ["f1", "exact_match", "ended", "json"]
    by_name = dict(zip(names, rewards.functions(names, rows, tokenizer, 3, None), strict=True))
    given = {"completions": ["It is cold.", "It is hot.", '{"a": 1}'], "row": [0, 0, 0],
             "completion_ids": [[1, 2, 9], [1, 2, 3], [9]]}  # fmt: skip
    assert by_name["f1"](**given) == pytest.approx([1, 2 / 3, 0])
    assert by_name["exact_match"](**given) == [1, 0, 0]
    assert by_name["ended"](**given) == [1, 0, 1]
    assert by_name["json"](**given) == [0, 0, 1]
    both = [by_name["exact_match"], by_name["json"]]
    assert rewards.total(both, [1.0, 0.5], **given) == [1, 0, 0.5]
    assert rewards.total(both, None, **given) == [1, 0, 1]


class Beginning:
    """A tokenizer that puts its begin-of-text (1) before every text, as Llama's does."""

    bos_token = "<s>"

    def __init__(self, adds=(1,)):
        self.adds = list(adds)

    def __call__(self, text, add_special_tokens=True):
        start = [1] if text.startswith("<s>") else []
        ids = start + [ord(c) for c in text.removeprefix("<s>")]
        return {"input_ids": self.adds + ids if add_special_tokens else ids}


def test_a_prompt_gets_one_begin_of_text_where_template_and_tokenizer_both_write_it():
    ids = Beginning()("<s>Hi", add_special_tokens=False)["input_ids"]
    assert preference_rows.once(Beginning(), "<s>Hi", ids) == "Hi"
    assert preference_rows.once(Beginning(adds=()), "<s>Hi", ids) == "<s>Hi"
    with pytest.raises(console.Problem, match="adds special tokens of its own"):
        preference_rows.once(Beginning(adds=(1, 7)), "<s>Hi", ids)


# --- on the miniature --------------------------------------------------------------------------


def run(*arguments, start="sft", **changes):
    words = [*arguments, *(["--adapter", start] if start else [])]
    return ppo_trainer.main([*words, *preferences.options(**changes)])


# Enough answers a step that what is learned stands out of the noise of sampling.
ONLINE = {"training__per_device_train_batch_size": 64, "training__max_steps": 12}


def final(work, run_id):
    return work / "adapters" / "runs" / run_id / "final"


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.remote_env
@pytest.mark.parametrize(
    ("algorithm", "measured", "gain", "logged"),
    [
        ("dpo", "margin", 0.2, "rewards/margins"),
        ("grpo", "reward", 0.3, "kl"),
        ("rloo", "reward", 0.3, "kl"),
        ("ppo", "reward", 0.3, "objective/kl"),
    ],
)
def test_it_improves_its_own_objective_from_an_adapter(
    work, capsys, algorithm, measured, gain, logged
):
    began = contents(final(work, "sft"))
    words = ("--confirm-run", "--algorithm", algorithm, "--run-id", algorithm, "--json")
    more = {"ppo": {"training__max_steps": 8}, "rloo": {"training__max_steps": 24}}
    changes = {} if algorithm == "dpo" else ONLINE | more.get(algorithm, {})
    code = run(*words, **changes)
    out, err = capsys.readouterr()
    assert code == 0 and "the reward can rise while the answers get worse" in err
    result = json.loads(out)
    objective = result["objective"]
    assert objective["after"][measured] > objective["before"][measured] + gain
    assert contents(final(work, "sft")) == began
    folder = work / "adapters" / "runs" / algorithm
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any(logged in row for row in rows)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["start"]["name"] == "sft"
    assert (facts["reward_model"] is None) == (algorithm == "dpo")
    names = {p.name for p in final(work, algorithm).iterdir()}
    assert "adapter_model.safetensors" in names and "ref" not in names
    before, after = tensors(final(work, "sft")), tensors(final(work, algorithm))
    assert before.keys() == after.keys()
    assert any((before[key] != after[key]).any() for key in before)


@pytest.mark.remote_env
def test_flash_attention_without_its_package_is_refused_before_a_run_exists(work):
    with pytest.raises(console.Problem, match="needs the package flash-attn.*=sdpa"):
        run("--confirm-run", "--run-id", "flash", model__attn_implementation="flash_attention_2")
    assert not (work / "adapters" / "runs" / "flash").exists()


@pytest.mark.remote_env
def test_the_result_is_registered_and_starts_the_next_run_by_its_version(work, capsys):
    from checkpoint_manager import CheckpointManager

    run("--confirm-run", "--run-id", "first", training__max_steps=2)
    version = CheckpointManager().register("first", name="tuned")
    assert version.card["config"]["algorithm"] == "dpo"
    capsys.readouterr()
    assert run("--json", start=version.reference) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["start"] == version.reference


@pytest.mark.remote_env
def test_grpo_takes_reward_functions_and_plain_rows_without_a_reward_model(work, capsys):
    changes = {"data__train_file": "data/processed/train_sft.jsonl",
               "data__val_file": "data/processed/val_sft.jsonl", "training__max_steps": 2,
               "training__logging_steps": 1, "reward_funcs": "[f1, ended]",
               "reward_weights": "[1.0, 0.5]"}  # fmt: skip
    words = ("--confirm-run", "--algorithm", "grpo", "--run-id", "functions", "--json")
    assert run(*words, "--reward-model", "nowhere", **changes) == 0
    objective = json.loads(capsys.readouterr().out)["objective"]
    assert 0 < objective["before"]["reward"] < 1.5 and 0 < objective["after"]["reward"] < 1.5
    lines = (work / "adapters" / "runs" / "functions" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    parts = first["rewards/f1/mean"] + 0.5 * first["rewards/ended/mean"]
    assert first["reward"] == pytest.approx(parts, abs=1e-4)


@pytest.mark.remote_env
def test_dpo_from_the_base_makes_a_new_adapter_in_four_bits_and_resumes_bit_for_bit(
    work, monkeypatch
):
    base = {"start": None, "model__model_name_or_path": "models/miniature",
            "quantization__load_in_4bit": "true", "model__dtype": "bfloat16",
            "training__max_steps": 8, "training__per_device_train_batch_size": 8}  # fmt: skip
    assert run("--confirm-run", "--run-id", "whole-dpo", **base) == 0
    with preferences.stopping_at(4):
        assert run("--confirm-run", "--run-id", "halved-dpo", **base) == 143
    assert run("--confirm-run", "--resume", "halved-dpo", **base) == 0
    one, two = tensors(final(work, "whole-dpo")), tensors(final(work, "halved-dpo"))
    assert all((one[key] == two[key]).all() for key in one)
    assert preferences.read_status(work, "halved-dpo")["resumed_from"]


@pytest.mark.remote_env
def test_a_stopped_ppo_keeps_a_checkpoint_to_start_from_and_says_that_it_cannot_resume(
    work, monkeypatch, capsys
):
    from training.run_folder import RunFolder

    written = RunFolder.metrics

    def stop_at_two(self, row):
        written(self, row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "metrics", stop_at_two)
        assert run("--confirm-run", "--algorithm", "ppo", "--run-id", "cut") == 143
    out, err = capsys.readouterr()
    assert out == "" and "ppo cannot resume" in err
    assert preferences.read_status(work, "cut")["state"] == "stopped"
    checkpoints = work / "adapters" / "runs" / "cut" / "checkpoints"
    kept = list(checkpoints.glob("checkpoint-*"))
    assert len(kept) == 1
    with pytest.raises(console.Misuse, match="TRL's PPO cannot resume"):
        run("--confirm-run", "--algorithm", "ppo", "--resume", "cut")
    assert run("--algorithm", "ppo", start=str(kept[0])) == 0


@pytest.mark.remote_env
def test_ppos_reference_is_a_frozen_copy_of_the_adapter_it_starts_from(work):
    from rlhf import algorithms, policies

    chosen = settings("sft_model_path=sft", "quantization.load_in_4bit=false")
    start = policies.start_of(chosen)
    policy = policies.load_policy(policies.with_base(chosen, start), start)
    assert algorithms._add_reference(policy)["ref_adapter_name"] == "ref"
    named = dict(policy.named_parameters())
    copies = [name for name in named if ".ref." in name]
    assert copies
    for name in copies:
        assert (named[name] == named[name.replace(".ref.", ".default.")]).all()
        assert not named[name].requires_grad
        assert named[name.replace(".ref.", ".default.")].requires_grad


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.remote_env
@pytest.mark.parametrize(
    ("arguments", "start", "expected"),
    [
        (("--algorithm", "grpo", "--reward-model", "absent"), "sft",
         "no run at absent; reward models here: "),
        (("--algorithm", "rloo", "--reward-model", "sft"), "sft", "the run sft is no reward model"),
        ((), "reward", "reward is a reward model"),
        ((), "models/miniature", "is a whole model, not an adapter"),
        ((), None, "no base model is named"),
        (("--set", "lora.target_modules=[q_proj, in_proj]"), "sft", "has no in_proj"),
    ],
)  # fmt: skip
def test_what_it_cannot_start_from_is_one_clear_line(work, monkeypatch, arguments, start, expected):
    monkeypatch.chdir(work)
    before = sorted((work / "adapters" / "runs").iterdir())
    with pytest.raises(console.Problem) as problem:
        run("--confirm-run", *arguments, start=start)
    assert expected in str(problem.value) and "\n" not in str(problem.value)
    assert sorted((work / "adapters" / "runs").iterdir()) == before


@pytest.mark.remote_env
def test_an_adapter_of_another_base_is_refused(work):
    import shutil

    other = work / "models" / "other"
    if not other.exists():
        shutil.copytree(work / "models" / "miniature", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    with pytest.raises(console.Problem, match="not the base model of sft: its config.json differs"):
        run("--confirm-run", model__model_name_or_path=str(other))


@pytest.mark.remote_env
def test_too_few_prompts_for_one_step_are_refused_instead_of_looping(work, tmp_path):
    few = preferences.write(tmp_path / "few.jsonl", preferences.pairs(3))
    with pytest.raises(console.Problem, match="3 prompts are too few: one step takes 16"):
        run("--confirm-run", "--algorithm", "ppo", "--set", f"data.train_file={few}")
