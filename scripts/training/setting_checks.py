"""Settings held against base, machine and data, as checks of the plan.

What would end or spoil a training later is named before it starts. Ordinary settings give no line.
"""

from __future__ import annotations

import importlib.util
import math
import shutil

from adapters.exports.vllm import RANKS
from kit import console, paths
from kit.console import GB
from kit.report import Check
from training import memory
from training.cards import Card
from training.model_shape import VOCABULARY_LAYERS, ModelShape


def before_data(shape: ModelShape, settings) -> list[Check]:
    """What the model's shape and the settings alone decide."""
    return [
        *packages(settings), *sharding(settings), *tied_embeddings(shape, settings),
        *served_elsewhere(settings), *workers(settings),
    ]  # fmt: skip


def after_data(shape: ModelShape, settings, steps: int) -> list[Check]:
    """What the number of steps decides."""
    space = checkpoint_space(shape, settings, steps)
    return [*warm_up(settings.training, steps), *space]


def on_card(settings, cards: list[Card] | None) -> list[Check]:
    """What a card before Ampere cannot compute: bfloat16, flash attention."""
    without = [card for card in cards or () if not card.bf16]
    return [*_bfloat16(settings, without), *_flash_attention(settings, without)]


def _flash_attention(settings, without: list[Card]) -> list[Check]:
    if not without or settings.model.attn_implementation != "flash_attention_2":
        return []
    fact = f"flash_attention_2 needs an Ampere card or newer, not {without[0].name}"
    return [Check("attention", "fail", fact, "model.attn_implementation=sdpa")]


def _bfloat16(settings, without: list[Card]) -> list[Check]:
    model, training, q = settings.model, settings.training, settings.quantization
    asked = [
        text
        for text, used in (
            ("model.dtype", model.dtype == "bfloat16"),
            ("training.bf16", training.bf16),
            ("quantization.bnb_4bit_compute_dtype",
             q.load_in_4bit and q.bnb_4bit_compute_dtype == "bfloat16"),
        )
        if used
    ]  # fmt: skip
    if not without or not asked:
        return []
    fix = (
        "--set model.dtype=float16 --set training.bf16=false --set training.fp16=true "
        "--set quantization.bnb_4bit_compute_dtype=float16"
    )
    fact = f"{without[0].name} computes no bfloat16 (it is emulated): {', '.join(asked)}"
    return [Check("bfloat16", "fail", fact, fix)]


def packages(settings) -> list[Check]:
    """Packages that a setting needs and that are in no lock of ours."""
    model = settings.model
    if model.attn_implementation != "flash_attention_2" or importlib.util.find_spec("flash_attn"):
        return []
    here = importlib.util.find_spec("torch") is not None
    fact = "flash_attention_2 needs the package flash-attn, which is not installed"
    if not here:
        fact = "flash_attention_2 needs the package flash-attn on the host; it is in no lock"
    fix = "model.attn_implementation=sdpa (in torch), or install flash-attn there"
    return [Check("flash attention", "fail" if here else "warn", fact, fix)]


def sharding(settings) -> list[Check]:
    """FSDP with state or weights that it cannot shard."""
    training, q = settings.training, settings.quantization
    if not getattr(training, "fsdp", False):
        return []
    checks = []
    if "8bit" in training.optim or training.optim.startswith("paged"):
        fact = f"{training.optim} keeps its state in a form that FSDP cannot shard"
        checks.append(Check("fsdp optimizer", "fail", fact, "training.optim=adamw_torch"))
    if q.load_in_8bit:
        fact = "FSDP cannot shard an 8-bit base"
        fix = "quantization.load_in_8bit=false, and load_in_4bit=true where it must be small"
        checks.append(Check("fsdp base", "fail", fact, fix))
    storage = q.bnb_4bit_quant_storage
    if q.load_in_4bit and storage != settings.model.dtype:
        fact = f"FSDP shards one dtype: 4-bit weights are stored as {storage}"
        fix = f"quantization.bnb_4bit_quant_storage={settings.model.dtype}"
        checks.append(Check("fsdp base", "fail", fact, fix))
    return checks


def tied_embeddings(shape: ModelShape, settings) -> list[Check]:
    """A base with one matrix for input and output, of which one use would be trained."""
    whole = sorted(VOCABULARY_LAYERS & set(settings.lora.modules_to_save or ()))
    if not whole or not shape.tied:
        return []
    fact = (
        f"this base has one matrix for embeddings and head: training {', '.join(whole)} makes a "
        "second one, which merged models and other programs do not have"
    )
    fix = "leave it out of lora.modules_to_save, or train both and keep the adapter unmerged"
    return [Check("tied embeddings", "warn", fact, fix)]


def served_elsewhere(settings) -> list[Check]:
    """What vLLM will refuse in an adapter that these settings make."""
    lora = settings.lora
    reasons = [f"rank {lora.r} above {RANKS[-1]}"] if lora.r > RANKS[-1] else []
    reasons += ["modules_to_save"] if lora.modules_to_save else []
    reasons += ["DoRA"] if lora.use_dora else []
    reasons += [f"bias: {lora.bias}"] if lora.bias != "none" else []
    if isinstance(lora.target_modules, list):
        reasons += [
            f"LoRA on {name}" for name in sorted(VOCABULARY_LAYERS & set(lora.target_modules))
        ]
    if not reasons:
        return []
    fix = "merge the version to serve it with vLLM (docs/ADAPTERS.md), or leave these out"
    return [Check("vLLM", "warn", f"cannot serve such an adapter: {', '.join(reasons)}", fix)]


def workers(settings) -> list[Check]:
    """Loader workers, which encoded rows do not need."""
    count = getattr(settings.training, "dataloader_num_workers", 0)
    if not count:
        return []
    fact = f"{count} are not started: rows are encoded before training begins"
    return [Check("dataloader_num_workers", "skip", fact)]


def warm_up(training, steps: int) -> list[Check]:
    """A warm-up that takes most of the run, or all of it."""
    warmup = training.warmup_steps
    taken = warmup if warmup >= 1 else warmup * steps
    if taken <= steps / 2 or steps < 4:
        return []
    fact = f"{taken:,.0f} of {steps:,} steps: the learning rate hardly reaches its value"
    return [Check("warm-up", "warn", fact, "training.warmup_steps=0.03 (a share of the steps)")]


def checkpoint_space(shape: ModelShape, settings, steps: int) -> list[Check]:
    """The checkpoints that will lie there at once, against the free space."""
    training = settings.training
    trained = memory.adapter_parameters(shape, settings.lora)
    width = 2 if memory.is_quantised(settings) and not training.fp16 else 4
    state = next((b for name, b in memory.OPTIMIZER.items() if name in training.optim), 8.0)
    one = trained * (width + state) + (20 << 20)  # tokenizer, template, trainer's state
    by_epoch = getattr(training, "save_strategy", "steps") == "epoch"
    saves = steps // getattr(training, "save_steps", steps or 1) + 1
    if by_epoch and training.max_steps < 1:
        saves = math.ceil(training.num_train_epochs)
    kept = min(training.save_total_limit + 2, saves)  # the best one stays, a new one is written
    needed, free = one * kept + trained * width, free_space()
    if needed <= free:
        return []
    fact = f"{kept} of {console.size(one)} and the final adapter, {console.size(free)} free"
    fix = "free space there, or lower training.save_total_limit"
    return [Check("checkpoints", "fail", fact, fix)]


def free_space() -> int:
    """Bytes free where runs are written."""
    folder = paths.folder("runs")
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def disk(settings) -> Check:
    """The free space against safety.min_free_disk_gb."""
    folder = paths.folder("runs")
    while not folder.exists():
        folder = folder.parent
    free = free_space()
    fact = f"{console.size(free)} free at {paths.show(folder)}"
    needed = settings.safety.min_free_disk_gb
    if free < needed * GB:
        fix = "free space there, or lower safety.min_free_disk_gb"
        return Check("disk", "fail", f"{fact}, {needed:g} GB wanted", fix)
    return Check("disk", "ok", fact)


def tracker(name: str) -> list[Check]:
    """Whether the package that `report_to` names is there. wandb is in no lock of ours."""
    if name == "none" or importlib.util.find_spec(name):
        return []
    training_stack = importlib.util.find_spec("torch") is not None
    if not training_stack and name != "wandb":
        return []  # a laptop that plans: the host has it
    fix = f"uv pip install --python .venv-remote/bin/python {name} there, or report_to: trackio"
    fact = f"{name} is not installed" if training_stack else f"{name} must be added on the host"
    return [Check("report_to", "fail" if training_stack else "warn", fact, fix)]
