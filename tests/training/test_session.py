"""What every training's session holds to: one GPU, an adapter that is read back, full memory."""

import collections
import os
import types
from contextlib import nullcontext
from pathlib import Path

import pytest

from kit import console
from training import model_shape, processes, saving, session, setting_checks, trainer_command

SCRIPTS = Path(console.__file__).parent.parent


@pytest.mark.parametrize(
    ("before", "here", "after", "expected"),
    [
        (None, 1, "0", ""),
        (None, 4, "0", "one GPU of 4 is used"),
        ("2,3", 4, "2", "one GPU of 2 is used (CUDA_VISIBLE_DEVICES=2)"),
        ("GPU-8f3,GPU-77a", 2, "GPU-8f3", "--gpus all"),
        ("MIG-1a,MIG-2b", 1, "MIG-1a", "one MIG device of 2 is used: MIG-1a"),
        ("1", 4, "1", ""),
        ("", 4, "", ""),
    ],
)
def test_without_a_launcher_one_gpu_is_visible_and_that_is_said(
    monkeypatch, capsys, tmp_path, before, here, after, expected
):
    for card in range(here):
        (tmp_path / f"card{card}").mkdir()
    monkeypatch.setattr(processes, "GPUS_HERE", str(tmp_path))
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    processes.keep_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    err = capsys.readouterr().err
    assert expected in err and bool(expected) == bool(err)


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1", 2), ("MIG-1a,MIG-2b", 1), ("", 0), ("-1", 0), ("GPU-8f3", 1)]
)
def test_a_process_gets_one_mig_device_and_every_gpu_that_is_named(visible, count, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes.visible_gpus() == count


def test_more_processes_than_gpus_are_refused_on_a_machine_with_a_driver(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(processes.gpu, "driver_is_there", lambda: True)
    with pytest.raises(console.Problem, match="torch sees 2 here; --gpus 2"):
        processes.launch("3", "lora_trainer.py", [])


def test_a_launched_process_keeps_the_gpus_that_its_launcher_gave_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    processes.keep_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_data_parallel_is_refused_with_what_it_would_do():
    with pytest.raises(console.Problem, match="2 times as large as configured; start with --gpus"):
        processes.refuse_data_parallel(types.SimpleNamespace(args=types.SimpleNamespace(n_gpu=2)))


@pytest.mark.parametrize("left", [(), ("RANK",), ("RANK", "LOCAL_RANK", "MASTER_PORT")])
def test_a_world_without_a_meeting_point_is_one_line(left, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in left:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    processes.refuse_half_a_launch()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(console.Misuse, match="MASTER_ADDR.* not: no launcher's variables"):
        processes.refuse_half_a_launch()


def test_a_rank_that_another_program_left_behind_is_none(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert trainer_command.is_rank_zero()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not trainer_command.is_rank_zero()


@pytest.mark.parametrize("text", ["x", "0", "-1", "2.0"])
def test_a_world_size_that_is_no_number_is_one_line(text, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(console.Misuse, match=f"WORLD_SIZE={text} is not a number"):
        processes.promised()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "1000"])
def test_a_number_of_gpus_is_a_number(text):
    with pytest.raises(console.Misuse, match="not a number of GPUs"):
        processes.parse_count(text)


# --- settings against base and machine ------------------------------------------------------------


def settings(*overrides):
    from config import loader

    return loader.load("training_config.yaml", [*overrides], kind="training_config")


LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip


def shape(**changes):
    return model_shape.of_config(LLAMA | {"tie_word_embeddings": False} | changes)


FSDP = ("training.fsdp=true", "training.gradient_checkpointing=false")


@pytest.mark.parametrize(
    ("overrides", "config", "name", "status"),
    [
        (("model.attn_implementation=flash_attention_2",), {}, "flash attention", ("fail", "warn")),
        (FSDP, {}, "fsdp optimizer", ("fail",)),
        ((*FSDP, "training.optim=adamw_torch"), {}, "fsdp base", ("fail",)),
        (("lora.modules_to_save=[lm_head]",), {"tie_word_embeddings": True}, "tied embeddings",
         ("warn",)),
        (("lora.modules_to_save=[embed_out]",), {"tie_word_embeddings": True}, "tied embeddings",
         ("warn",)),
        ((*FSDP, "quantization.load_in_8bit=true", "quantization.load_in_4bit=false"), {},
         "fsdp base", ("fail",)),
        (("lora.r=1024",), {}, "vLLM", ("warn",)),
        (("lora.use_dora=true",), {}, "vLLM", ("warn",)),
        (("training.dataloader_num_workers=2",), {}, "dataloader_num_workers", ("skip",)),
    ],
)  # fmt: skip
def test_settings_that_spoil_a_training_later_are_named_before_it(overrides, config, name, status):
    checks = setting_checks.before_data(shape(**config), settings(*overrides))
    statuses = {check.name: check.status for check in checks}
    assert statuses[name] in status


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "gemma2", "phi3"])
def test_ordinary_settings_give_no_line(model_type):
    model = shape(model_type=model_type, tie_word_embeddings=model_type == "gemma2")
    assert setting_checks.before_data(model, settings()) == []
    assert setting_checks.after_data(model, settings(), 300) == []


def test_a_warm_up_longer_than_half_the_run_is_named():
    (check,) = setting_checks.warm_up(settings("training.warmup_steps=100").training, 120)
    assert check.status == "warn" and "100 of 120 steps" in check.found


def test_checkpoints_that_the_disk_cannot_hold_are_named(monkeypatch):
    monkeypatch.setattr(setting_checks, "free_space", lambda: 1 << 28)
    (check,) = setting_checks.checkpoint_space(shape(), settings(), 1000)
    assert check.status == "fail" and "save_total_limit" in check.fix


def test_checkpoints_of_each_epoch_are_counted(monkeypatch):
    by_epoch = settings(
        "training.save_strategy=epoch", "training.eval_strategy=epoch",
        "training.save_total_limit=9", "training.num_train_epochs=6",
        "lora.modules_to_save=[down_proj]",
    )  # fmt: skip
    monkeypatch.setattr(setting_checks, "free_space", lambda: 1 << 28)
    (check,) = setting_checks.checkpoint_space(shape(), by_epoch, 12)
    assert check.found.startswith("6 of ")


def test_a_card_without_bfloat16_needs_float16_and_says_nothing_once_it_has_it():
    from training import cards

    t4 = [cards.named("T4")]
    (check,) = setting_checks.on_card(settings(), t4)
    assert check.status == "fail" and "model.dtype=float16" in check.fix
    words = [word for word in check.fix.split() if word != "--set"]
    assert setting_checks.on_card(settings(*words), t4) == []
    flash = settings(*words, "model.attn_implementation=flash_attention_2")
    (check,) = setting_checks.on_card(flash, t4)
    assert check.status == "fail" and "T4" in check.found
    assert setting_checks.on_card(flash, [cards.named("A100")]) == []


def test_a_quantised_base_that_fsdp_cannot_load_on_one_card_is_named():
    from training import cards, memory_checks
    from training.memory import Workload
    from training.memory_advice import MemoryCase

    large = shape(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64,
                  num_key_value_heads=8, intermediate_size=28672)  # fmt: skip
    chosen = settings(*FSDP, "training.optim=adamw_torch")
    for card, status in (("RTX 4090", "fail"), ("A100 80 GB", "skip")):
        case = MemoryCase(large, chosen, Workload())
        (check,) = memory_checks.memory_checks(case, [cards.named(card)])
        assert check.status == status and ("loads the whole" in check.found) == (status == "fail")


# --- with the training stack ----------------------------------------------------------------------


@pytest.mark.remote_env
@pytest.mark.parametrize(("weights", "missed", "refused"), [(5e9, True, True), (5e9, False, False),
                                                            (1e6, True, False)])  # fmt: skip
def test_a_large_model_is_not_trained_on_a_cpu_because_the_gpu_is_gone(
    weights, missed, refused, monkeypatch
):
    problem = console.Problem("no GPU can be used here (it fell off the bus)", "reboot")
    monkeypatch.setattr(session.gpu_driver, "unseen", lambda: problem if missed else None)
    estimate = types.SimpleNamespace(weights=weights)
    case = types.SimpleNamespace(estimate=estimate)
    recipe = types.SimpleNamespace(memory_case=lambda: case)
    expected = pytest.raises(console.Problem, match="fell off") if refused else nullcontext()
    with expected:
        session.refuse_large_model_on_cpu(recipe)


@pytest.mark.remote_env
def test_a_launched_process_without_a_gpu_of_its_own_is_one_line(monkeypatch):
    import torch

    monkeypatch.setattr(processes.loading, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    processes.refuse_missing_gpu()
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(console.Problem, match="process 3 of this .* torch sees 2; .*--gpus 2"):
        processes.refuse_missing_gpu()


@pytest.fixture
def adapted():
    """A small model with LoRA on its two linear layers, and lora_B not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    layers = {"up": torch.nn.Linear(8, 8), "down": torch.nn.Linear(8, 8)}
    block = torch.nn.Sequential(collections.OrderedDict(layers))
    names = LoraConfig(target_modules=["up", "down"], r=2)
    model = get_peft_model(torch.nn.Sequential(block), names)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.5
    return model


@pytest.mark.remote_env
def test_an_adapter_of_wrapped_layers_is_saved_whole(adapted, tmp_path):
    """FSDP's activation checkpointing wraps layers: PEFT alone saves an adapter without tensors."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    layers = saving.adapted_layers(adapted)
    assert layers == 2
    block = adapted.base_model.model[0]
    apply_activation_checkpointing(adapted, check_fn=lambda module: module is block)
    state = {k.replace(f"{saving.WRAPPER}.", ""): v for k, v in adapted.state_dict().items()}
    adapted.save_pretrained(tmp_path / "bare", state_dict=state)
    with pytest.raises(console.Problem, match="0 LoRA tensors were saved, 4 were expected"):
        saving.check_names(tmp_path / "bare", layers)
    with saving.plain_module_names(adapted):
        adapted.save_pretrained(tmp_path / "plain", state_dict=state)
    saving.check_adapter(tmp_path / "plain", layers)


@pytest.mark.remote_env
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda name, value: value * float("nan") if "lora_A" in name else value, "NaN or Inf"),
        (lambda name, value: value * 0 if "lora_B" in name else value, "lora_B is zero in every"),
        (lambda name, value: None if "down.lora_A" in name else value, "3 LoRA tensors were saved"),
    ],
)
def test_a_saved_adapter_is_read_back_before_it_counts(adapted, tmp_path, spoil, expected):
    from safetensors.torch import load_file, save_file

    adapted.save_pretrained(tmp_path)
    saving.check_adapter(tmp_path, 2)
    tensors = load_file(tmp_path / saving.ADAPTER_WEIGHTS)
    spoiled = {name: spoil(name, value) for name, value in tensors.items()}
    kept = {name: value for name, value in spoiled.items() if value is not None}
    save_file(kept, tmp_path / saving.ADAPTER_WEIGHTS)
    with pytest.raises(console.Problem, match=expected):
        saving.check_adapter(tmp_path, 2)


@pytest.mark.remote_env
def test_a_truncated_adapter_is_one_line(adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    whole = (tmp_path / saving.ADAPTER_WEIGHTS).read_bytes()
    (tmp_path / saving.ADAPTER_WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(console.Problem, match="cannot be read back"):
        saving.check_adapter(tmp_path, 2)
