"""The reward model: rows in, bad rows named, two yeses, a run that ranks better than before."""

import json

import pytest

import reward_model
from kit import console
from rlhf import preference_rows
from support import preferences


def read(path, pairs=True):
    return preference_rows.read(path, pairs=pairs)


# --- rows: no training stack needed ------------------------------------------------------------


def test_pairs_are_read_as_texts_and_as_messages_with_the_prompt_inside_or_outside(tmp_path):
    user = {"role": "user", "content": "Hi?"}
    good, bad = ({"role": "assistant", "content": text} for text in ("Hello.", "Go."))
    rows = [
        {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go."},
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"chosen": [user, good], "rejected": [user, bad]},
        {"prompt": "Hi?", "chosen": [user, good], "rejected": [user, bad]},
    ]
    for row in read(preferences.write(tmp_path / "rows.jsonl", rows)):
        assert preference_rows.prompt_of(row) == [user]
        assert preference_rows.reference_of(row) == "Hello."
        assert row.rejected == [bad]


def test_each_bad_row_is_one_line_with_file_and_row_then_they_are_counted(tmp_path, capsys):
    rows = preferences.pairs(3)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["rejected"] = [{"role": "assistant", "content": rows[2]["chosen"][0]["content"] + " "}]
    rows += [{"prompt": "Hi?", "chosen": "Hello."}, {"messages": rows[0]["prompt"]}, {"chosen": 3}]
    path = preferences.write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(console.Problem) as problem:
        read(path)
    assert problem.value.code == 1
    assert str(problem.value).startswith(f"{path}: 5 of 6 rows cannot be used (")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{n}" for n in (2, 3, 4, 5, 6)]
    assert "chosen equals rejected" in lines[0] and "chosen equals rejected" in lines[1]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_preference_file_is_one_clear_line(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(console.Problem, match=r"rows\.jsonl: no rows; rows need prompt, chosen"):
        read(tmp_path / "rows.jsonl")
    with pytest.raises(console.Problem, match=r"absent\.jsonl: no such data file"):
        read(tmp_path / "absent.jsonl")


def test_a_row_with_one_answer_is_a_prompt_but_no_pair(tmp_path):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    path = preferences.write(tmp_path / "rows.jsonl", [{"messages": turns}])
    assert preference_rows.prompt_of(read(path, pairs=False)[0]) == turns[:1]
    with pytest.raises(console.Problem):
        read(path)


@pytest.mark.parametrize(
    "name", ["lf_dpo_en_demo", "torchtune_hh_rlhf_tiny", "torchtune_stack_exchange_paired_tiny"]
)
def test_the_fields_own_preference_files_are_read(samples, tmp_path, name):
    records = json.loads((samples / "instruct" / f"{name}.json").read_text())
    rows = read(preferences.write(tmp_path / "rows.jsonl", records))
    assert len(rows) == len(records)
    assert all(row.rejected and preference_rows.prompt_of(row) for row in rows)


# --- the command -------------------------------------------------------------------------------


def run(*arguments, **changes):
    return reward_model.main([*preferences.BASE, *arguments, *preferences.options(**changes)])


@pytest.mark.remote_env
@pytest.mark.parametrize(
    ("arguments", "enabled", "why"),
    [
        (("--confirm-run",), "false", "RLHF is disabled"),
        ((), "true", "--confirm-run was not given"),
        (("--confirm-run", "--dry-run"), "true", "--dry-run was given"),
    ],
)
def test_without_both_yeses_it_only_plans_and_says_what_rlhf_can_break(
    work, capsys, arguments, enabled, why
):
    before = sorted((work / "adapters" / "runs").iterdir())
    assert run(*arguments, enabled=enabled) == 0
    out, err = capsys.readouterr()
    assert "16 steps of 16 rows" in out and f"Nothing was trained: {why}" in out
    assert "the reward can rise while the answers get worse" in err
    assert sorted((work / "adapters" / "runs").iterdir()) == before


@pytest.mark.remote_env
def test_a_plan_names_what_is_missing_and_fails(work, capsys):
    assert run("--json", "--set", "data.train_file=data/absent.jsonl") == 1
    body = json.loads(capsys.readouterr().out)
    missing = [c for c in body["checks"] if c["status"] == "fail"]
    assert [c["name"] for c in missing] == ["data"] and "absent.jsonl" in missing[0]["found"]


@pytest.mark.remote_env
def test_it_learns_to_rank_and_leaves_a_run_like_the_trainers(work):
    folder = work / "adapters" / "runs" / "reward"
    status = preferences.read_status(work, "reward")
    before, after = status["objective"]["before"], status["objective"]["after"]
    assert before["accuracy"] < 0.8 and after["accuracy"] > 0.95
    assert after["margin"] > before["margin"] + 0.5
    assert {p.name for p in folder.iterdir()} == {
        "checkpoints", "config.yaml", "final", "log.txt", "metrics.jsonl", "run.json",
        "status.json", ".lock",
    }  # fmt: skip
    assert status["state"] == "completed" and status["kind"] == "reward"
    assert status["step"] == status["max_steps"] == 16 and status["heartbeat"]
    adapter = json.loads((folder / "final" / "adapter_config.json").read_text())
    assert adapter["task_type"] == "SEQ_CLS" and "score" in adapter["modules_to_save"]
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in losses if "loss" in row] == [4, 8, 12, 16]


def weights(folder, run_id):
    """The final adapter's tensors."""
    from safetensors.torch import load_file

    final = folder / "adapters" / "runs" / run_id / "final"
    return load_file(final / "adapter_model.safetensors")


@pytest.mark.remote_env
def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not_stopped(work, monkeypatch, capsys):

    settings = {"quantization__load_in_4bit": "true", "model__dtype": "bfloat16"}
    assert run("--confirm-run", "--run-id", "whole", **settings) == 0
    with preferences.stopping_at(8):
        assert run("--confirm-run", "--run-id", "halved", **settings) == 143
    stopped = preferences.read_status(work, "halved")
    assert stopped["state"] == "stopped" and stopped["step"] in (8, 9)
    with pytest.raises(console.Misuse, match="began with another configuration: reward.learning"):
        run("--confirm-run", "--resume", "halved", **settings, reward__learning_rate=1e-3)
    assert run("--confirm-run", "--resume", **settings) == 0
    ended = preferences.read_status(work, "halved")
    assert ended["resumed_from"] == f"checkpoint-{stopped['step']}"
    assert ended["objective"] == preferences.read_status(work, "whole")["objective"]
    one, two = weights(work, "whole"), weights(work, "halved")
    assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
    with pytest.raises(console.Misuse, match="the run halved is completed"):
        run("--confirm-run", "--resume", "halved", **settings)
