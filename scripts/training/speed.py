"""Options that make a training faster and cost no quality, chosen from what the machine has.

Each has a switch in the section `speed` of the configuration: auto, on or off. OPTIONS is the
table: a function says for each whether auto takes it, and why. On a CPU auto changes nothing. None
was timed on a GPU yet (docs/GPU.md): what is said about their use comes from how they work.

Chosen by their own keys, not here: training.bf16 (the plan fails on a card without it),
training.tf32 where it is not null, and training.packing, which changes how many rows a step has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from base_model import architectures
from training.step_time import MUCH_WASTE

# Decoders of attention and one feed-forward: rows may follow each other, and Liger knows them.
PLAIN_DECODERS = frozenset({
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite",
    "olmo2", "smollm3",
})  # fmt: skip
INSTALL = "uv pip install --python .venv-remote/bin/python {} there"
FLASH_FIX = INSTALL.format("flash-attn --no-build-isolation") + " (it needs nvcc and minutes)"
LIGER_FIX = INSTALL.format("liger-kernel")
# Option -> the argument of TRL's SFTConfig that it sets; the others are the model's and the rows'.
ARGUMENTS: dict[str, tuple[str, Any]] = {
    "padding_free": ("padding_free", True), "liger_kernel": ("use_liger_kernel", True),
    "fused_optimizer": ("optim", "adamw_torch_fused"), "tf32": ("tf32", True),
}  # fmt: skip
ON_CPU = "a CPU trains as it always did"


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the training machine has. packages: those of OPTIONS that are there; None: not known."""

    gpu: bool
    ampere: bool = True  # bfloat16, TF32 and flash attention: an A100, a 3090 or newer
    packages: frozenset[str] | None = None

    def lacks(self, package: str) -> bool | None:
        """Whether a package is missing; None where that is known on the host alone."""
        return None if self.packages is None else package not in self.packages


@dataclasses.dataclass(frozen=True)
class SpeedCase:
    """What decides beside the machine. waste: the share of padding in random batches; grouped:
    the same when the rows of each step are sorted by length.
    """

    model_type: str
    settings: Any
    waste: float = 0.0
    grouped: float = 0.0
    micro_batches: int = 4  # of one optimizer step, over all processes
    flash: bool = False  # whether flash attention was chosen

    @property
    def training(self) -> Any:
        return self.settings.training


@dataclasses.dataclass(frozen=True)
class SpeedChoice:
    """One option: on, off, or None where only the training machine can tell."""

    option: str
    on: bool | None
    reason: str
    fix: str = ""
    possible: bool = True  # whether `on` may be asked for here

    @property
    def line(self) -> str:
        state = {True: "on", False: "off", None: "decided on the host"}[self.on]
        return f"{self.option} {state}: {self.reason}" + (f" ({self.fix})" if self.fix else "")

    @property
    def facts(self) -> dict[str, Any]:
        """For --json."""
        return {"on": self.on, "reason": self.reason, "fix": self.fix}


Rule = Callable[[Machine, SpeedCase], tuple[bool | None, str, str]]


def flash_attention(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """sdpa computes the whole square and repeats keys where rows are padded; flash does neither."""
    model, kind = job.settings.model, job.model_type
    if model.attn_implementation != "sdpa":
        return False, f"model.attn_implementation says {model.attn_implementation}", ""
    if not machine.ampere:
        return False, "flash-attn needs an Ampere card or newer", ""
    if architectures.attention(kind, "flash_attention_2") != "flash_attention_2":
        return False, f"{kind} has none in transformers", ""
    if model.dtype == "float32":
        return False, "it computes no float32", ""
    if job.training.full_determinism:
        return False, "full_determinism: its backward pass adds in any order", ""
    return _with(machine, "flash_attn", "rows of other lengths cost no mask", FLASH_FIX)


def padding_free(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """The rows of a micro-batch one after another; flash attention keeps them apart."""
    if job.training.packing:
        return False, "packing fills the rows already", ""
    if job.training.per_device_train_batch_size == 1:
        return False, "one row has no padding", ""
    if not job.flash:
        return False, "flash attention alone keeps such rows apart", ""
    if job.model_type not in PLAIN_DECODERS:
        return False, f"not known to be exact for {job.model_type}", ""
    return True, f"{job.waste:.0%} of the computed tokens would be padding", ""


def group_by_length(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """The rows of each step sorted by length before they are cut into micro-batches.

    A step has the rows that it had, so its gradient is the same but for rounding.
    """
    if job.training.packing or job.training.per_device_train_batch_size == 1:
        return False, "no row is padded", ""
    if job.micro_batches < 2:
        return False, "a step has one micro-batch, there is nothing to group", ""
    if job.waste <= MUCH_WASTE:
        return False, f"padding is {job.waste:.0%} of the computed tokens", ""
    return True, f"padding is {job.grouped:.0%} of computed tokens instead of {job.waste:.0%}", ""


def liger_kernel(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """Fused kernels for norms, rotary positions, feed-forward and loss."""
    training, lora = job.training, job.settings.lora
    named = lora.target_modules if isinstance(lora.target_modules, list) else []
    if job.model_type not in PLAIN_DECODERS:
        return False, f"not known to be exact for {job.model_type}", ""
    if {"lm_head", "embed_tokens"} & {*(lora.modules_to_save or ()), *named}:
        return False, "its loss passes by an adapted head", ""
    if training.fsdp:
        return False, "not tried under FSDP", ""
    if training.fp16:
        return False, "not tried with fp16's loss scaling", ""
    if training.full_determinism:
        return False, "full_determinism: its kernels promise no order", ""
    return _with(machine, "liger_kernel", "fused norms, feed-forward and loss", LIGER_FIX)


def fused_optimizer(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """adamw_torch's step in a few launches: the same arithmetic."""
    training = job.training
    if training.optim != "adamw_torch":
        return (
            False,
            f"training.optim={training.optim} stays: only adamw_torch has a fused form",
            "",
        )
    if training.fsdp:
        return False, "not tried under FSDP", ""
    return True, "adamw_torch_fused is the same step in fewer launches", ""


def tf32(machine: Machine, job: SpeedCase) -> tuple[bool | None, str, str]:
    """TF32 for the matrix products that bfloat16 training leaves in float32."""
    training = job.training
    if training.tf32 is not None:
        return training.tf32, f"training.tf32 says {str(training.tf32).lower()}", ""
    if not machine.ampere:
        return False, "the card has none", ""
    if not training.bf16:
        return False, "it rounds float32 products, which this training asked for", ""
    return True, "the products beside bfloat16 need no more digits than it has", ""


@dataclasses.dataclass(frozen=True)
class Option:
    """A row of the table. needs_gpu: `on` cannot be had on a CPU."""

    name: str
    rule: Rule
    needs_gpu: bool = True
    soft: tuple[str, ...] = ()  # beginnings of reasons against it that `on` overrules
    moot: tuple[str, ...] = ()  # and of those that leave it off without harm


OPTIONS = (
    Option("flash_attention", flash_attention),
    Option("padding_free", padding_free, soft=("not known",), moot=("one row", "packing")),
    Option(
        "group_by_length",
        group_by_length,
        needs_gpu=False,
        soft=("padding is",),
        moot=("no row", "a step has"),
    ),
    Option("liger_kernel", liger_kernel, soft=("not known", "not tried", "full_determinism")),
    Option("fused_optimizer", fused_optimizer, needs_gpu=False, soft=("not tried",)),
    Option("tf32", tf32),
)


def _with(machine: Machine, package: str, reason: str, fix: str) -> tuple[bool | None, str, str]:
    name = package.replace("_", "-")
    missing = machine.lacks(package)
    if missing is None:
        return None, f"where {name} is installed: {reason}", ""
    return (False, f"{name} is not installed", fix) if missing else (True, reason, "")


def choose(machine: Machine, job: SpeedCase) -> list[SpeedChoice]:
    """Every option of the table for a machine and a job, with the switches of the configuration."""
    made: list[SpeedChoice] = []
    for option in OPTIONS:
        choice = _choose(option, machine, job)
        if option.name == "flash_attention":
            eager = job.settings.model.attn_implementation == "flash_attention_2"
            job = dataclasses.replace(job, flash=bool(choice.on) or eager and machine.gpu)
        made.append(choice)
    return made


def _choose(option: Option, machine: Machine, job: SpeedCase) -> SpeedChoice:
    name, switch = option.name, getattr(job.settings.speed, option.name, "auto")
    if switch == "off":
        return SpeedChoice(name, False, f"speed.{name} says off")
    if not machine.gpu and (option.needs_gpu or switch == "auto"):
        reason = "it needs an NVIDIA GPU" if switch == "on" else ON_CPU
        return SpeedChoice(name, False, reason, possible=False)
    on, reason, fix = option.rule(machine, job)
    if switch == "on" and on is False:
        if any(map(reason.startswith, option.soft)):
            return SpeedChoice(name, True, f"speed.{name} says on")
        return SpeedChoice(name, False, reason, fix, any(map(reason.startswith, option.moot)))
    return SpeedChoice(name, on, reason, fix)


def arguments(chosen: frozenset[str]) -> dict[str, Any]:
    """What the chosen options set in TRL's SFTConfig."""
    return {key: value for name, (key, value) in ARGUMENTS.items() if name in chosen}
