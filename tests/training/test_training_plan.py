"""The dry run: what it counts, what it finds missing, and that nothing is trained by mistake."""

import json
import socket

import pytest

from base_model import description, miniature
from config import loader
from kit import console
from support import tiny
from support.model_files import LLAMA_8B
from support.trainer_process import CONFIRMED
from training import plan, setting_checks


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Rows, and a model folder that has all but weights: enough to plan."""
    tiny.write_rows(tmp_path)
    model = tmp_path / "models" / "miniature"
    texts = [row["messages"][0]["content"] for row in tiny.rows(50)]
    miniature.build_tokenizer(texts, "llama").save_pretrained(model)
    config = LLAMA_8B | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2,
                         "intermediate_size": 192, "num_hidden_layers": 2}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_a_dry_run_plans_without_torch_and_trains_nothing(work, command):
    done = command("lora_trainer.py", "--json", *tiny.options())
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["plan"]["data"]["train"]["rows"] == 240
    assert body["plan"]["data"]["train"]["supervised_tokens"] > 0
    assert body["plan"]["steps"] == 20 and body["plan"]["global_batch_size"] == 4
    assert "dry_run: true" in body["dry_run"]
    assert not (work / "adapters").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--confirm-run"], "the config says dry_run: true"),
        (["--set", "safety.dry_run=false"], "--confirm-run was not given"),
        (["--set", "safety.dry_run=false", "--confirm-run", "--dry-run"], "--dry-run was given"),
    ],
)
@pytest.mark.slow
def test_one_yes_is_not_enough(work, command, words, why):
    done = command("lora_trainer.py", *tiny.options(), *words)
    assert done.returncode == 0 and f"Nothing was trained: {why}" in done.stdout
    assert not (work / "adapters").exists()


def test_what_is_missing_is_named_and_fails_the_plan(tmp_path, command):
    done = command("lora_trainer.py")
    assert done.returncode == 1
    assert "FAIL  base model" in done.stdout and "docs/MODEL_DOWNLOAD.md" in done.stdout


@pytest.mark.slow
def test_missing_data_names_the_command_that_writes_it(work, command):
    (work / "data" / "processed" / "train_sft.jsonl").unlink()
    done = command("lora_trainer.py", *tiny.options())
    assert done.returncode == 1 and "no such data file" in done.stdout
    assert "make data writes it" in done.stdout


@pytest.mark.slow
def test_a_wrong_target_module_lists_the_right_ones(work, command):
    done = command(
        "lora_trainer.py", *tiny.options(), "--set", "lora.target_modules=[q_proj, qproj]"
    )
    assert done.returncode == 2 and "has no qproj" in done.stderr and "gate_proj" in done.stderr


@pytest.mark.slow
def test_too_short_a_length_is_refused_before_training(work, command):
    done = command("lora_trainer.py", *tiny.options(training__max_length=8))
    assert done.returncode == 1 and "0 supervised tokens in 240 rows" in done.stdout


@pytest.mark.slow
def test_too_little_disk_is_refused(work, command):
    done = command("lora_trainer.py", *tiny.options(safety__min_free_disk_gb=1e6))
    assert done.returncode == 1 and "FAIL  disk" in done.stdout


@pytest.mark.slow
def test_a_tokenizer_without_a_template_is_refused(work, command):
    (work / "models" / "miniature" / "chat_template.jinja").unlink()
    done = command("lora_trainer.py", *tiny.options())
    assert done.returncode == 1 and "no chat template" in done.stdout


def test_steps_are_counted_as_the_trainer_counts_them():
    training = loader.load("training_config.yaml").training
    assert plan.steps(950, training) == (180, 60)  # 238 batches, 60 an epoch, 3 epochs
    assert plan.steps(950, training, world_size=2) == (90, 30)


def test_a_miniature_never_replaces_a_real_model(work, command):
    rows = work / "data" / "processed" / "train_sft.jsonl"
    done = command("build_miniature.py", "--data", rows, "--out", work / "models" / "miniature")
    assert done.returncode == 2 and "is not a miniature" in done.stderr
    assert (work / "models" / "miniature" / "config.json").exists()


def test_a_tracker_that_is_not_installed_is_named_before_the_run(monkeypatch):
    here = {"torch", "tensorboard"}
    monkeypatch.setattr(
        setting_checks.importlib.util, "find_spec", lambda name: name in here or None
    )
    assert setting_checks.tracker("none") == setting_checks.tracker("tensorboard") == []
    (check,) = setting_checks.tracker("wandb")
    assert check.status == "fail" and "uv pip install" in check.fix
    here.clear()  # a laptop, which plans for its host
    assert setting_checks.tracker("trackio") == []
    (check,) = setting_checks.tracker("wandb")
    assert check.status == "warn"


@pytest.mark.slow
def test_a_full_disk_is_refused_before_there_is_a_run(work, command):
    done = command("lora_trainer.py", *tiny.options(safety__min_free_disk_gb=1e6), *CONFIRMED)
    assert done.returncode == 1 and "lower safety.min_free_disk_gb" in done.stderr
    assert not (work / "adapters").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "training.optim=foo",
        "training.seed=-1",
        "training.seed=4294967296",
        "lora.target_modules=[]",
        "training.neftune_noise_alpha=-3",
    ],
)
def test_what_the_libraries_would_refuse_later_is_refused_at_once(wrong):
    key = wrong.partition("=")[0]
    with pytest.raises(console.Misuse, match=key):
        loader.load("training_config.yaml", [wrong])
    if "neftune" not in key:
        with pytest.raises(console.Misuse, match=key):
            loader.load("rlhf.yaml", [wrong], kind="rlhf")


def test_a_wrong_module_is_refused_before_there_is_a_run(work, command):
    done = command(
        "lora_trainer.py", *tiny.options(), *CONFIRMED, "--set", "lora.modules_to_save=[nope]"
    )
    assert done.returncode == 2 and "has no nope" in done.stderr
    assert not (work / "adapters").exists()


def test_packed_rows_make_fewer_steps(work):
    words = tiny.options(training__max_steps=-1, training__num_train_epochs=1)[1::2]
    loose = plan.make(loader.load("training_config.yaml", words)).facts
    packed = plan.make(loader.load("training_config.yaml", [*words, "training.packing=true"])).facts
    assert loose["steps"] == 60
    rows = -(-packed["data"]["train"]["tokens"] // 128)
    assert packed["trained_rows"] == rows and packed["steps"] == -(-rows // 4) < 60
    assert packed["tokens"] == pytest.approx(loose["tokens"], rel=0.1)


@pytest.mark.parametrize("file", ["/nope", "models"])
def test_a_chat_template_that_cannot_be_read_is_named(work, file):
    words = [*tiny.options()[1::2], f"model.chat_template={work / file}"]
    with pytest.raises(console.Misuse, match=r"model\.chat_template: .* cannot be read"):
        plan.make(loader.load("training_config.yaml", words))


def test_a_model_path_with_a_space_is_a_model_that_is_not_there():
    with pytest.raises(console.Problem, match="no model at a b/c d"):
        description.config("a b/c d")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["lora_trainer.py", "reward_model.py"])
def test_a_plan_asks_nobody_on_the_network(work, command, script, monkeypatch):
    """A model that only the hub's cache knows: its config.json is there, its tokenizer is not."""
    cached = work / "hub" / "models--some--tiny"
    snapshot = cached / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(LLAMA_8B))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        options = tiny.options(model__model_name_or_path="some/tiny")
        if script == "reward_model.py":
            options = ["--set", "model.model_name_or_path=some/tiny"]
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_CACHE": str(work / "hub")}
        done = command(script, *options, env=env)
        assert done.returncode == 1 and "no tokenizer there" in done.stdout, done.stderr
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_an_empty_validation_file_is_no_validation(work):
    (work / "data" / "processed" / "val_sft.jsonl").write_text("\n")
    made = plan.make(loader.load("training_config.yaml", tiny.options()[1::2]))
    (check,) = (c for c in made.checks if c.name == "validation data")
    assert check.status == "skip" and "no rows: no validation" in check.found
    assert list(made.facts["data"]) == ["train"]


def test_a_named_card_is_held_against_the_estimate(work):
    from training import cards

    settings = loader.load("training_config.yaml", tiny.options()[1::2])
    made = plan.make(settings, cards=[cards.named("RTX 4090")])
    (check,) = (c for c in made.checks if c.name.startswith("memory"))
    assert (check.name, check.status) == ("memory, RTX 4090 24 GB", "ok")
    assert list(made.facts["estimate"]["fits"]) == ["RTX 4090 24 GB"]
    assert any("fits, about" in line for line in plan.lines(made))


def test_the_line_for_a_full_card_says_what_to_lower():
    from training import gpu_memory

    problem = gpu_memory.out_of_memory(13 * (1 << 30), ["a=1 saves 2 GB", "b=2 saves 1 GB"])
    assert "estimated need 13.0 GB" in problem.text
    assert problem.remedy == "lower, in this order: 1. a=1 saves 2 GB; 2. b=2 saves 1 GB"
