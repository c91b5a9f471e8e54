"""An estimate of a training's peak GPU memory, from config.json and the configuration alone.

It counts what the libraries keep (transformers 5.18, peft 0.21, trl 1.12, bitsandbytes 0.50) and is
held to traces of their allocations by tests/training/test_memory.py: within 10 %. It needs the
standard library alone, so that a laptop plans for its host. Sizes are bytes; GB is 2**30.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from kit.console import GB
from training.model_shape import VOCABULARY_LAYERS, ModelShape, of_config

CUDA_CONTEXT = GB // 2
CUBLAS_WORKSPACES = 64 << 20
FRAGMENTS = 1.1  # reserved over allocated: 1.01 to 1.15 in the traces
SCAN_BYTES = 30  # that Mamba's plain scan keeps for a channel, a state and a token
SCAN_FRAGMENTS = 1.23
LOSS_CHUNK = 256  # tokens whose logits TRL's chunked loss holds at once
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
NF4_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits and quantised constants
NF4_SINGLE = 0.5 + 4 / 64  # one float32 constant for 64 weights
# Bytes of optimizer state for one trained parameter, by a word in the optimizer's name.
OPTIMIZER = {"8bit": 2.0, "adafactor": 0.1, "sgd": 0.0, "lion": 4.0, "default": 8.0}
SUPERVISED, REWARD, DPO, ONLINE, PPO = "lora", "reward", "dpo", "online", "ppo"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What one micro-batch holds. Lengths are tokens a row."""

    kind: str = SUPERVISED
    rows: int = 4
    length: int = 2048
    answer: int = 0  # of it, tokens whose logits are kept (grpo, rloo, ppo)
    rollouts: int = 0  # answers that one step generates at once
    scorer: bool = False  # a reward model is loaded beside the policy
    padded: bool = True  # rows of different lengths: attention gets a mask

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by kind, and the counts they come from."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    parameters: int
    trained: int
    fragments: float = FRAGMENTS

    @property
    def allocated(self) -> float:
        """Bytes that torch allocates at the peak."""
        parts = self.weights + self.adapter + self.gradients + self.optimizer
        return parts + self.activations + self.logits + CUBLAS_WORKSPACES

    @property
    def total(self) -> float:
        """Bytes that the card must have: allocated, fragments, and CUDA's own context."""
        return self.allocated * self.fragments + CUDA_CONTEXT


def adapter_parameters(shape: ModelShape, lora) -> int:
    """How many parameters are trained: r x (inputs + outputs) for each adapted layer, and whole
    modules."""
    adapted = adapted_layers(shape, lora)
    count = sum(lora.r * (i + o) * n for i, o, n in adapted.values())
    whole = set(lora.modules_to_save or ())
    count += sum(i * o * n for name, (i, o, n) in shape.linear.items() if name in whole)
    return count + len(VOCABULARY_LAYERS & whole) * shape.vocabulary * shape.hidden


def adapted_layers(shape: ModelShape, lora) -> dict[str, tuple[int, int, int]]:
    """The linear layers that carry LoRA."""
    if lora.target_modules == "all-linear":
        return shape.linear
    named = {name: size for name, size in shape.linear.items() if name in lora.target_modules}
    return named or shape.linear  # fused layers have other names and about the same size


def weight_bytes(shape: ModelShape, settings, head: bool = True) -> float:
    """Bytes of the base; head: with the layer that gives the vocabulary's logits."""
    quantization, width = settings.quantization, BYTES[settings.model.dtype]
    if quantization.load_in_4bit:
        per_weight = NF4_DOUBLE if quantization.bnb_4bit_use_double_quant else NF4_SINGLE
    else:
        per_weight = 1.0 if quantization.load_in_8bit else width
    whole = shape.other_parameters + shape.expert_parameters
    if not head and not shape.tied:
        whole -= shape.vocabulary * shape.hidden
    return shape.linear_parameters * per_weight + whole * width


def estimate(
    model: ModelShape | dict[str, Any], settings, work: Workload | None = None
) -> MemoryEstimate:
    """The MemoryEstimate for one GPU.

    model: a shape, or config.json; settings: a TrainingConfig.
    """
    shape = model if isinstance(model, ModelShape) else of_config(model)
    training = settings.training
    work = work or Workload(rows=training.per_device_train_batch_size, length=training.max_length)
    trained = adapter_parameters(shape, settings.lora)
    quantised = is_quantised(settings)
    trained_width = 2 if quantised and not training.fp16 else 4  # QLoRA trains in bfloat16
    state = next((b for name, b in OPTIMIZER.items() if name in training.optim), 8.0)
    weights, adapters = _models(shape, settings, work, trained * trained_width)
    copies = 2 if work.kind == PPO else 1  # the value model is trained too
    activations, logits = _peak(shape, settings, work)
    return MemoryEstimate(
        weights=weights,
        adapter=adapters,
        gradients=trained * trained_width * copies,
        optimizer=trained * state * copies,
        activations=activations,
        logits=logits,
        parameters=shape.parameters,
        trained=trained,
        fragments=SCAN_FRAGMENTS if shape.state else FRAGMENTS,
    )


def is_quantised(settings) -> bool:
    return settings.quantization.load_in_4bit or settings.quantization.load_in_8bit


def _models(shape: ModelShape, settings, work: Workload, adapter: float) -> tuple[float, float]:
    """(bytes of all bases, bytes of all adapters) that the training holds."""
    weights = weight_bytes(shape, settings, head=work.kind != REWARD)
    scorer = weight_bytes(shape, settings, head=False)
    extra = (1 if work.scorer else 0) + (1 if work.kind == PPO else 0)
    reference = 1 if work.kind in (DPO, ONLINE, PPO) else 0  # a frozen copy of the adapter
    return weights + extra * scorer, adapter * (1 + extra + reference)


def layer_bytes(shape: ModelShape, settings, padded: bool) -> float:
    """Bytes a token that one layer keeps for its backward pass."""
    lora, quantised = settings.lora, is_quantised(settings)
    if shape.state:
        return SCAN_BYTES * shape.inner * shape.state + 8 * (shape.inner + shape.hidden)
    hidden, inner = shape.hidden, shape.active_inner or shape.inner
    adapted = sum(i * n for i, _, n in adapted_layers(shape, lora).values()) / shape.layers
    # Norms in float32; gate, up and silu; query, keys, values and attention's output. With a mask
    # the kernel takes no grouped keys, so they are repeated.
    kept = 8 * hidden + 6 * inner + 4 * shape.heads
    kept += 8 * shape.query if padded else 4 * shape.query + 4 * shape.keys
    if lora.lora_dropout:
        return kept + 3 * adapted  # each input after dropout, and its mask
    if quantised:
        return kept + 4 * hidden + 2 * inner
    return kept + 2 * adapted  # a bfloat16 copy for each float32 adapter


def _peak(shape: ModelShape, settings, work: Workload) -> tuple[float, float]:
    """(activations, logits) in bytes at the largest moment of a training step."""
    training, tokens, hidden = settings.training, work.tokens, shape.hidden
    inner = shape.active_inner or shape.inner
    layer = tokens * layer_bytes(shape, settings, work.padded)
    layer += (
        2 * work.rows * work.length**2 if work.padded and not shape.state else 0
    )  # the mask as bfloat16
    working = tokens * (12 * hidden + 2 * inner + (0 if is_quantised(settings) else 8 * inner))
    logits = _logits(shape, work)
    models = 2 if work.kind == PPO else 1  # policy and value model pass forward together
    if not training.gradient_checkpointing:
        in_loss = models * layer * shape.layers + 4 * hidden * tokens
        in_layer = models * layer * shape.layers + working
    else:
        border = 2 * hidden * tokens * (shape.layers * models - 1)  # a layer keeps its input
        if settings.quantization.load_in_8bit:  # bitsandbytes keeps inputs outside of autograd
            border += tokens * shape.layers * (4 * hidden + 2 * shape.query + 2 * inner)
        in_loss, in_layer = border + 10 * hidden * tokens, border + layer + working
    if in_loss + logits >= in_layer:
        return max(in_loss, _generation(shape, work) - logits), logits
    return max(in_layer, _generation(shape, work)), 0.0


def _logits(shape: ModelShape, work: Workload) -> float:
    """Bytes that the loss takes: none for a reward's single number."""
    if work.kind == REWARD:
        return 0.0
    if work.kind == SUPERVISED and not plain_loss_is_cheaper(shape.hidden, work.tokens):
        # The head as float32 and as bfloat16, and one chunk of logits.
        return 6.0 * shape.vocabulary * shape.hidden + 2 * LOSS_CHUNK * shape.vocabulary
    if work.kind == ONLINE:
        return 12.0 * shape.vocabulary * work.rows * work.answer
    plain = 12.0 * shape.vocabulary * work.tokens  # bfloat16, float32 and the gradients of both
    kept = 4.0 * shape.vocabulary * work.rollouts * work.answer if work.kind == PPO else 0
    return plain + kept


def plain_loss_is_cheaper(hidden: int, tokens: int) -> bool:
    """Whether all logits of a micro-batch are smaller than the copies of the head.

    TRL's chunked loss copies the head twice (6 bytes an element) to keep few logits; the plain one
    keeps 12 bytes a token and word.
    """
    return tokens < hidden // 2


def _generation(shape: ModelShape, work: Workload) -> float:
    """Bytes of the keys, values and scores while answers are generated."""
    if not work.rollouts:
        return 0.0
    cache = 4.0 * shape.keys * shape.layers * work.rollouts * work.length
    scores = 4.0 * shape.vocabulary * work.rollouts
    return cache + scores * (3 * work.answer if work.kind == PPO else 3)
