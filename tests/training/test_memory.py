"""The memory formula against traces of the libraries' own allocations, and what it advises.

Each row of TRACES was measured with torch's caching allocator on a stand-in for a GPU that computes
nothing (transformers 5.18, peft 0.21.2, trl 1.12, bitsandbytes 0.50.2): GB allocated at the peak,
and GB that a card must have (reserved + 0.5 for CUDA's context). When these pins move, trace again.
"""

import pytest

from config import loader
from kit import console
from kit.console import GB
from support.model_files import LLAMA_8B
from training import cards, memory, memory_advice, memory_checks, model_shape, step_time
from training.memory import DPO, ONLINE, PPO, REWARD, Workload
from training.memory_advice import MemoryCase

MISTRAL = LLAMA_8B | {"model_type": "mistral", "vocab_size": 32768, "head_dim": 128}
QWEN_HALF = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_8B = LLAMA_8B | {"model_type": "qwen3", "intermediate_size": 12288,
                       "num_hidden_layers": 36, "vocab_size": 151936}  # fmt: skip
MAMBA = {
    "model_type": "mamba", "hidden_size": 768, "intermediate_size": 1536, "num_hidden_layers": 24,
    "state_size": 16, "time_step_rank": 48, "vocab_size": 50280, "tie_word_embeddings": True,
}  # fmt: skip
BF16 = "quantization.load_in_4bit=false"
PLAIN = "training.gradient_checkpointing=false"
IN_8_BITS = (BF16, "quantization.load_in_8bit=true")
NO_DROPOUT = ("lora.lora_dropout=0.0",)
SCAN = (BF16, "lora.target_modules=[in_proj, x_proj]")
FLAT = {"padded": False}

TRACES = [  # name, config.json, settings, work, GB allocated, GB needed
    ("8B 4-bit", LLAMA_8B, (), FLAT, 10.83, 12.6),
    ("8B 4-bit, padded", LLAMA_8B, (), {}, 10.84, 12.6),
    ("8B bfloat16", LLAMA_8B, (BF16,), FLAT, 20.74, 23.5),
    ("Mistral 4-bit", MISTRAL, (), FLAT, 8.60, 9.8),
    ("Mistral bfloat16", MISTRAL, (BF16,), FLAT, 19.28, 20.3),
    ("one row", LLAMA_8B, (), FLAT | {"rows": 1}, 9.14, 9.8),
    ("eight rows", LLAMA_8B, (), FLAT | {"rows": 8}, 14.55, 16.2),
    ("short", LLAMA_8B, (), FLAT | {"length": 512}, 9.14, 9.8),
    ("long", LLAMA_8B, (), FLAT | {"length": 8192}, 23.53, 26.8),
    ("long, padded", LLAMA_8B, (), {"length": 8192}, 24.65, 28.3),
    ("no checkpointing", LLAMA_8B, (PLAIN,), FLAT, 71.20, 72.3),
    ("no checkpointing, padded", LLAMA_8B, (PLAIN,), {}, 75.20, 76.7),
    ("no checkpointing, bfloat16", LLAMA_8B, (PLAIN, BF16), FLAT, 81.07, 82.8),
    ("8-bit", LLAMA_8B, IN_8_BITS, FLAT, 26.97, 29.7),
    ("0.5B 4-bit", QWEN_HALF, (), FLAT, 1.76, 2.5),
    ("0.5B bfloat16", QWEN_HALF, (BF16,), FLAT, 2.38, 3.2),
    ("Qwen3-8B 4-bit", QWEN3_8B, (), FLAT, 12.00, 13.3),
    ("r 64", LLAMA_8B, ("lora.r=64",), FLAT, 11.28, 13.1),
    ("adamw_torch", LLAMA_8B, ("training.optim=adamw_torch",), FLAT, 10.94, 12.8),
    ("DPO", LLAMA_8B, NO_DROPOUT, {"kind": DPO, "rows": 8, "length": 1000}, 19.22, 23.1),
    ("DPO, 1024", LLAMA_8B, NO_DROPOUT, {"kind": DPO, "rows": 8, "length": 1024}, 19.63, 23.6),
    ("reward", LLAMA_8B, NO_DROPOUT, {"kind": REWARD, "rows": 8, "length": 1000}, 8.34, 9.6),
    ("GRPO", LLAMA_8B, NO_DROPOUT, {"kind": ONLINE, "rows": 4, "length": 726, "answer": 256,
     "rollouts": 4, "scorer": True}, 12.27, 13.5),
    ("PPO", LLAMA_8B, NO_DROPOUT, {"kind": PPO, "rows": 4, "length": 726, "answer": 256,
     "rollouts": 4, "scorer": True}, 20.55, 22.5),
    ("PPO, 16 rollouts", LLAMA_8B, NO_DROPOUT, {"kind": PPO, "rows": 4, "length": 726,
     "answer": 256, "rollouts": 16, "scorer": True}, 22.44, 26.2),
    ("Mamba 130M bfloat16", MAMBA, SCAN, {"length": 1024}, 3.22, 4.4),
    ("Mamba 130M, eight rows", MAMBA, SCAN, {"rows": 8, "length": 1024}, 6.13, 8.1),
]  # fmt: skip


def settings(*overrides):
    return loader.load("training_config.yaml", [*overrides], kind="training_config")


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace[0])
def test_the_formula_is_within_ten_per_cent_of_the_trace(trace):
    _, config, overrides, work, allocated, needed = trace
    estimate = memory.estimate(config, settings(*overrides), Workload(**work))
    assert estimate.allocated / GB == pytest.approx(allocated, rel=0.1)
    assert estimate.total / GB == pytest.approx(needed, rel=0.1)


def test_parameters_are_those_of_the_published_model():
    shape = model_shape.of_config(LLAMA_8B)
    assert shape.parameters == pytest.approx(8_030_261_248, rel=1e-4)
    assert memory.adapter_parameters(shape, settings().lora) == 41_943_040


def test_sizes_are_read_under_other_names_and_from_the_language_model_of_a_multimodal_one():
    nested = {"model_type": "gemma3", "text_config": LLAMA_8B}
    assert model_shape.of_config(nested).parameters == model_shape.of_config(LLAMA_8B).parameters
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257,
            "tie_word_embeddings": True}  # fmt: skip
    assert model_shape.of_config(gpt2).parameters == pytest.approx(124e6, rel=0.02)
    with pytest.raises(console.Problem, match="config.json names no hidden_size"):
        model_shape.of_config({"model_type": "odd", "vocab_size": 10})


def test_fused_experts_keep_their_width_under_four_bits():
    """Qwen3-30B-A3B: 57 GB of experts, not 2.5 GB of everything."""
    config = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "head_dim": 128,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        "intermediate_size": 6144, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = model_shape.of_config(config)
    assert shape.parameters == pytest.approx(30.5e9, rel=0.02)
    assert memory.weight_bytes(shape, settings()) / GB == pytest.approx(57, rel=0.05)
    case = MemoryCase(config, settings(), Workload())
    (check,) = memory_checks.memory_checks(case, None)
    assert check.status == "warn" and "4 bits do not reach them" in check.found


def case(*overrides, **work):
    return MemoryCase(LLAMA_8B, settings(*overrides), Workload(**work))


@pytest.mark.parametrize(
    ("overrides", "work", "card", "status", "fix"),
    [
        ((), {}, "RTX 4090", "ok", ""),
        ((), {}, "RTX 3060", "warn", "batch_size=1 with gradient_accumulation_steps=16"),
        ((), {}, "RTX 3080", "fail", "training.max_length=1024"),
        ((BF16,), {}, "3090", "warn", "per_device_train_batch_size=2"),
        ((BF16,), {}, "T4", "fail", "load_in_4bit=true"),
        ((), {"kind": DPO, "rows": 8, "length": 1024}, "24 GB", "warn", "batch_size=2"),
        ((PLAIN,), {}, "H100 80 GB", "warn", "per_device_train_batch_size=2"),
        ((), {}, "6 GB", "fail", "a smaller model or a larger card"),
    ],
)
def test_a_card_fits_is_tight_or_does_not_fit_with_the_smallest_change(
    overrides, work, card, status, fix
):
    check = memory_advice.card_check(case(*overrides, **work), cards.named(card))
    assert check.status == status and fix in check.fix


def test_a_card_that_is_named_instead_of_a_change_holds_the_training():
    words = memory_advice.smallest_change(case(), cards.named("6 GB"))
    name = words.partition("such as ")[2]
    assert cards.named(name).verdict(case().estimate.total) == "fits"


@pytest.mark.parametrize(("layers", "failed"), [(32, False), (126, True)])
def test_a_model_that_no_known_card_holds_fails_without_a_card_too(layers, failed):
    config = LLAMA_8B | {"num_hidden_layers": layers}
    if failed:
        config |= {"hidden_size": 16384, "intermediate_size": 53248, "num_attention_heads": 128}
    large = MemoryCase(config, settings(), Workload())
    checks = memory_checks.memory_checks(large, None)
    assert [check.status for check in checks] == ["fail"] * failed
    if failed:
        assert "training_config_fsdp.yaml" in checks[0].fix and "B200" in checks[0].found
    spread = settings("training.fsdp=true", PLAIN, "training.optim=adamw_torch", BF16)
    (check,) = memory_checks.memory_checks(MemoryCase(config, spread, Workload()), None)
    assert check.status == "skip"


def test_what_the_smallest_change_names_does_fit():
    tight = case(BF16)
    card = cards.named("RTX 4090")
    words = memory_advice.smallest_change(tight, card)
    assert words.startswith("training.per_device_train_batch_size=2 ")
    after = case(BF16, rows=2)
    assert card.verdict(after.estimate.total) == "fits"


def test_modules_that_are_trained_whole_are_counted():
    lora = settings("lora.modules_to_save=[down_proj, wte]").lora
    shape = model_shape.of_config(LLAMA_8B)
    more = memory.adapter_parameters(shape, lora) - memory.adapter_parameters(
        shape, settings().lora
    )
    assert more == 32 * 14336 * 4096 + shape.vocabulary * 4096


def test_four_bits_instead_of_eight_is_a_remedy_that_loads():
    from config import loader

    eight = ("quantization.load_in_4bit=false", "quantization.load_in_8bit=true")
    (words,) = [w for w, _ in memory_advice.changes(case(*eight)) if "load_in_4bit" in w]
    loader.load("training_config.yaml", [*eight, *words.split(" (")[0].split(" and ")])


def test_remedies_come_in_the_order_of_what_they_save():
    order = memory_advice.remedies(case(BF16))
    assert order[0].startswith("quantization.load_in_4bit=true") and "saves" in order[0]
    assert not any("gradient_checkpointing" in text for text in order), "it is on already"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090 24 GB"), ("h100", "H100 80 GB"), ("A100", "A100 40 GB"),
        ("NVIDIA A100 80GB", "A100 80 GB"), ("24", "24 GB"), ("a10", "A10 24 GB"),
        ("RTX 6000 Ada", "RTX 6000 Ada 48 GB"),
    ],
)  # fmt: skip
def test_a_card_is_named_as_people_name_it(text, name):
    assert cards.named(text).name == name


@pytest.mark.parametrize("text", ["", "RTX", "potato", "-3", "1 GB", "GTX 9999"])
def test_a_card_that_nobody_knows_is_refused_with_those_that_are_known(text):
    with pytest.raises(console.Misuse, match="no such card is known"):
        cards.named(text)


@pytest.mark.parametrize(
    ("driver", "memory_mib", "tflops", "bf16"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, 66, True),
        ("NVIDIA H100 80GB HBM3", 81559, 350, True),
        ("Tesla T4", 15360, 20, False),
        ("NVIDIA A100-SXM4-40GB", 40960, 125, True),
        ("Some Card 1", 8192, None, True),
    ],
)
def test_a_card_of_the_driver_has_the_speed_of_the_known_one(driver, memory_mib, tflops, bf16):
    card = cards.of_driver(driver, memory_mib)
    assert (card.tflops, card.bf16) == (tflops, bf16)


def test_memory_that_others_hold_is_not_free():
    card = cards.of_driver("NVIDIA GeForce RTX 4090", 24564, used_mib=14000)
    check = memory_advice.card_check(case(), card)
    assert check.status == "fail" and "in use by other programs" in check.found


# --- time -----------------------------------------------------------------------------------------


def test_padding_is_counted_from_the_lengths():
    assert step_time.padding_share([100] * 8, 4, 42) == 0
    assert step_time.padding_share([100, 300], 2, 42) == pytest.approx(1 / 3)


def test_short_rows_take_the_time_of_the_launches():
    """4 rows of 200 tokens: 0.35 s of a CPU core a micro-batch, not the 0.1 s of an H100."""
    shape = model_shape.of_config(LLAMA_8B)
    seconds, bound = step_time.epoch_seconds(shape, settings(), [200] * 8, 0.1, 350)
    assert seconds == pytest.approx(0.7) and bound == 1
    assert "the CPU sets the pace" in step_time.advice(0, bound, settings())[0]


def test_attention_adds_what_was_counted():
    shape = model_shape.of_config(LLAMA_8B)
    assert step_time.attention_flops(shape, 2048, False, True) == pytest.approx(2.4e9, rel=0.02)
    assert step_time.attention_flops(shape, 8192, True, True) == pytest.approx(19.3e9, rel=0.02)
