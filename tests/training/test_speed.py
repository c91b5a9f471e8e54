"""What is chosen for speed from what a machine has, why, and that a step keeps its rows."""

import json

import pytest

from config import loader
from kit import console
from training import speed, speed_choices, step_sampler, step_time
from training.speed import Machine

BOTH = frozenset({"flash_attn", "liger_kernel"})
H100 = Machine(True, True, BOTH)
BARE = Machine(True, True, frozenset())  # as the environments of this project are
T4 = Machine(True, False, BOTH)
HOST = Machine(True, True, None)  # planned on a laptop
CPU = Machine(False, False, frozenset())
LENGTHS = [100, 2000] * 32
EVEN = [500] * 64


def chosen(machine, *overrides, lengths=LENGTHS, kind="llama", processes=1):
    settings = loader.load("training_config.yaml", list(overrides), kind="training_config")
    job = speed_choices.job(kind, settings, lengths, processes)
    choices = speed.choose(machine, job)
    return {c.option: c for c in choices}, speed_choices.checks(choices, settings)


CASES = [  # machine, settings, option, on, words of the reason
    (H100, (), "flash_attention", True, "no mask"),
    (H100, (), "padding_free", True, "would be padding"),
    (H100, (), "liger_kernel", True, "fused norms"),
    (H100, (), "tf32", True, "bfloat16"),
    (H100, (), "fused_optimizer", False, "paged_adamw_8bit stays"),
    (H100, ("training.optim=adamw_torch",), "fused_optimizer", True, "fewer launches"),
    (H100, ("training.optim=adafactor",), "fused_optimizer", False, "adafactor stays"),
    (H100, ("training.packing=true",), "padding_free", False, "packing"),
    (H100, ("training.packing=true",), "group_by_length", False, "no row is padded"),
    (H100, ("training.per_device_train_batch_size=1",), "padding_free", False, "one row"),
    (H100, ("model.attn_implementation=eager",), "flash_attention", False, "says eager"),
    (H100, ("model.attn_implementation=eager",), "padding_free", False, "flash attention alone"),
    (H100, ("model.attn_implementation=flash_attention_2",), "padding_free", True, "padding"),
    (H100, ("model.dtype=float32",), "flash_attention", False, "no float32"),
    (H100, ("training.full_determinism=true",), "flash_attention", False, "full_determinism"),
    (H100, ("training.full_determinism=true",), "liger_kernel", False, "full_determinism"),
    (H100, ("lora.modules_to_save=[lm_head]",), "liger_kernel", False, "adapted head"),
    (H100, ("training.tf32=false",), "tf32", False, "training.tf32 says false"),
    (H100, ("training.bf16=false",), "tf32", False, "rounds float32"),
    (H100, ("speed.flash_attention=off",), "flash_attention", False, "says off"),
    (H100, ("speed.liger_kernel=off",), "liger_kernel", False, "says off"),
    (BARE, (), "flash_attention", False, "flash-attn is not installed"),
    (BARE, (), "liger_kernel", False, "liger-kernel is not installed"),
    (BARE, (), "group_by_length", True, "instead of"),
    (BARE, ("training.gradient_accumulation_steps=1",), "group_by_length", False, "one micro"),
    (BARE, ("speed.group_by_length=off",), "group_by_length", False, "says off"),
    (T4, (), "flash_attention", False, "Ampere"),
    (T4, (), "tf32", False, "none"),
    (T4, (), "liger_kernel", True, "fused"),
    (HOST, (), "flash_attention", None, "where flash-attn is installed"),
    (HOST, (), "group_by_length", True, "instead of"),
    (CPU, (), "tf32", False, speed.ON_CPU),
    (CPU, ("training.optim=adamw_torch",), "fused_optimizer", False, speed.ON_CPU),
    (CPU, ("speed.fused_optimizer=on", "training.optim=adamw_torch"), "fused_optimizer", True, ""),
    (CPU, ("speed.group_by_length=on",), "group_by_length", True, ""),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "overrides", "option", "on", "words"), CASES)
def test_each_option_is_chosen_where_the_machine_has_it_and_says_why(
    machine, overrides, option, on, words
):
    choices, failed = chosen(machine, *overrides)
    assert choices[option].on is on and words in choices[option].reason
    assert not failed


def test_on_a_cpu_nothing_is_chosen_and_one_line_says_so():
    choices, failed = chosen(CPU)
    assert not failed and not any(choice.on for choice in choices.values())
    made = speed_choices.facts(list(choices.values()))
    assert speed_choices.lines(made) == ["speed: nothing is changed on a CPU"]


def test_on_a_gpu_every_choice_is_a_line_below_one_that_says_unmeasured():
    choices, _ = chosen(BARE)
    lines = speed_choices.lines(speed_choices.facts(list(choices.values())))
    assert "unmeasured on a GPU" in lines[0] and len(lines) == 1 + len(speed.OPTIONS)
    assert any("liger_kernel off" in x and "uv pip install --python" in x for x in lines)


@pytest.mark.parametrize(("lengths", "on"), [(EVEN, False), (LENGTHS, True)])
def test_rows_are_grouped_where_padding_is_more_than_a_fifth(lengths, on):
    choices, _ = chosen(BARE, lengths=lengths)
    assert choices["group_by_length"].on is on


@pytest.mark.parametrize("kind", ["mamba", "jamba", "qwen2_moe", "gpt_neox", "odd"])
def test_other_architectures_get_no_kernels_that_are_not_known_to_be_exact(kind):
    choices, _ = chosen(H100, "lora.target_modules=all-linear", kind=kind)
    assert not choices["liger_kernel"].on and not choices["padding_free"].on


def test_fsdp_takes_no_option_that_was_not_tried_with_it():
    overrides = ("training.fsdp=true", "training.gradient_checkpointing=false",
                 "training.optim=adamw_torch")  # fmt: skip
    choices, _ = chosen(H100, *overrides, processes=2)
    assert not choices["liger_kernel"].on and not choices["fused_optimizer"].on


@pytest.mark.parametrize(
    ("machine", "overrides", "words"),
    [
        (BARE, ("speed.flash_attention=on",), "uv pip install --python .venv-remote/bin/python"),
        (BARE, ("speed.liger_kernel=on",), "liger-kernel"),
        (BARE, ("speed.padding_free=on",), "speed.padding_free=auto"),
        (CPU, ("speed.liger_kernel=on",), "speed.liger_kernel=auto"),
        (CPU, ("speed.flash_attention=on",), "auto"),
        (BARE, ("speed.fused_optimizer=on",), "auto"),
        (T4, ("speed.flash_attention=on",), "auto"),
    ],
)
def test_on_where_it_cannot_be_had_fails_the_plan_with_its_remedy(machine, overrides, words):
    _, failed = chosen(machine, *overrides)
    assert [check.status for check in failed] == ["fail"]
    assert words in failed[0].fix and "on is asked for" in failed[0].found


def test_on_overrules_what_is_only_not_worth_it():
    choices, failed = chosen(BARE, "speed.group_by_length=on", lengths=EVEN)
    assert choices["group_by_length"].on and not failed
    choices, failed = chosen(H100, "speed.liger_kernel=on", kind="qwen2_moe")
    assert choices["liger_kernel"].on and not failed


@pytest.mark.parametrize(
    "more", ["training.packing=true", "training.gradient_accumulation_steps=1",
             "training.per_device_train_batch_size=1"])  # fmt: skip
def test_on_where_there_is_nothing_to_group_is_no_fault(more):
    choices, failed = chosen(BARE, "speed.group_by_length=on", more)
    assert not choices["group_by_length"].on and not failed


@pytest.mark.parametrize("word", ["yes", "true", "1", "Auto", "fast"])
def test_a_switch_takes_its_three_words_alone(word):
    with pytest.raises(console.Misuse, match="speed.liger_kernel.*'auto', 'on' or 'off'"):
        loader.load("training_config.yaml", [f"speed.liger_kernel={word}"], kind="training_config")


def test_every_switch_is_a_row_of_the_table_and_stands_in_the_configuration():
    settings = loader.load("training_config.yaml", kind="training_config")
    switches = set(type(settings.speed).model_fields)
    assert switches == {option.name for option in speed.OPTIONS} - {"tf32"}
    text = (loader.paths.ROOT / "configs" / "training_config.yaml").read_text()
    assert all(f"  {name}: auto" in text for name in switches)


# --- the order of rows ----------------------------------------------------------------------------


def order(step, epoch=0, seed=42):
    return list(step_sampler.StepSampler(LENGTHS, step, seed, lambda: epoch))


def test_a_step_has_the_rows_of_a_random_order_and_its_micro_batches_are_alike():
    plain, sorted_ = order(1), order(16)
    for begin in range(0, len(LENGTHS), 16):
        step = sorted_[begin : begin + 16]
        assert sorted(step) == sorted(plain[begin : begin + 16])
        assert [LENGTHS[i] for i in step] == sorted((LENGTHS[i] for i in step), reverse=True)
    assert sorted(sorted_) == list(range(len(LENGTHS)))


def test_each_epoch_and_seed_has_its_own_order_and_the_same_one_again():
    assert order(16, 1) == order(16, 1) and order(16, 1) != order(16) != order(16, seed=7)


def test_sorting_within_steps_saves_padding_and_loses_no_token():
    random_, sorted_ = (step_time.micro_batches(LENGTHS, 4, 42, step) for step in (0, 16))
    assert sum(n for n, _ in random_) == sum(n for n, _ in sorted_) == len(LENGTHS)
    assert step_time.padding_share(LENGTHS, 4, 42, 16) < step_time.padding_share(LENGTHS, 4, 42)


@pytest.mark.parametrize(("began", "on"), [({}, False), ({"group_by_length": True}, True)])
def test_a_resumed_run_keeps_the_order_in_which_it_began(began, on):
    """An older Tandem wrote nothing of it: the order was random."""
    choices, _ = chosen(BARE, lengths=LENGTHS if not on else EVEN)
    kept = speed_choices.keep_order(list(choices.values()), began)
    assert next(c.on for c in kept if c.option == "group_by_length") is on


# --- a training -----------------------------------------------------------------------------------


@pytest.mark.remote_env
@pytest.mark.slow
def test_a_training_with_every_switch_that_a_cpu_has_resumes_bit_for_bit(work):
    """Two epochs, so that the order of the second is met again."""
    from support.processes import wait_until
    from support.trainer_process import CONFIRMED, start

    options = (
        *CONFIRMED, "--set", "speed.group_by_length=on", "--set", "speed.fused_optimizer=on",
    )  # fmt: skip
    more = {"training__optim": "adamw_torch", "data__max_samples": 100,
            "training__gradient_accumulation_steps": 2}  # fmt: skip
    runs = work / "adapters" / "runs"
    whole = start(work, *options, "--run-id", "grouped", **more)
    killed = start(work, *options, "--run-id", "cut", **more)
    state = runs / "cut" / "checkpoints" / "checkpoint-10" / "trainer_state.json"
    wait_until(state.exists, killed)
    killed.kill()
    killed.communicate()
    for process in (whole, start(work, *options, "--resume", "cut", **more)):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    adapters = [runs / name / "final" / "adapter_model.safetensors" for name in ("grouped", "cut")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    facts = json.loads((runs / "grouped" / "run.json").read_text())
    assert facts["speed"]["group_by_length"] and facts["speed"]["fused_optimizer"]
    assert not facts["speed"]["liger_kernel"]
    assert "speed: group_by_length on" in (runs / "grouped" / "log.txt").read_text()
