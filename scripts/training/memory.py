"""Estimates of a training run's GPU memory and time, from config.json and the configuration alone.

An estimate, not a promise: it counts what dominates (weights, adapters, optimizer, activations,
logits) the way the libraries allocate it, and adds 10 % and the CUDA context.
"""

from __future__ import annotations

import dataclasses
from typing import Any

GB = 1 << 30
CUDA_CONTEXT = 0.8 * GB  # context, cuBLAS workspace, allocator's blocks
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
NF4_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits and quantised constants
NF4_SINGLE = 0.5 + 4 / 64  # one float32 constant for 64 weights
# bytes of optimizer state for one trained parameter
OPTIMIZER = {"8bit": 2.0, "adafactor": 0.1, "sgd": 0.0, "lion": 4.0, "default": 8.0}
# GPUs that people train on: memory in GB, sustained bf16 TFLOP/s of LoRA steps (about 40 % of peak)
GPUS = {"RTX 3090 24 GB": (24, 28), "H100 80 GB": (80, 350)}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes by kind, and the counts they come from."""

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    parameters: int
    trained: int

    @property
    def total(self) -> float:
        parts = self.weights + self.adapter + self.gradients + self.optimizer
        return (parts + self.activations + self.logits) * 1.1 + CUDA_CONTEXT

    def fits(self, gigabytes: float) -> bool:
        """Whether the total stays below a card's memory, 5 % kept free."""
        return self.total < gigabytes * GB * 0.95


def linear_layers(config: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """{module: (inputs, outputs, how many)} of the linear layers that LoRA can adapt."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    if config.get("model_type") == "mamba":
        inner = config.get("intermediate_size") or config.get("expand", 2) * hidden
        state = config.get("state_size", 16)
        rank = config.get("time_step_rank", "auto")
        rank = -(-hidden // 16) if rank == "auto" else rank
        return {
            "in_proj": (hidden, 2 * inner, layers),
            "x_proj": (inner, rank + 2 * state, layers),
            "dt_proj": (rank, inner, layers),
            "out_proj": (inner, hidden, layers),
        }
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    inner = config["intermediate_size"]
    return {
        "q_proj": (hidden, heads * head, layers),
        "k_proj": (hidden, keys, layers),
        "v_proj": (hidden, keys, layers),
        "o_proj": (heads * head, hidden, layers),
        "gate_proj": (hidden, inner, layers),
        "up_proj": (hidden, inner, layers),
        "down_proj": (inner, hidden, layers),
    }


def parameters(config: dict[str, Any]) -> tuple[int, int]:
    """(parameters in linear layers, all others: embeddings, head, norms)."""
    linear = sum(i * o * n for i, o, n in linear_layers(config).values())
    embeddings = config["vocab_size"] * config["hidden_size"]
    if not config.get("tie_word_embeddings", config.get("model_type") == "mamba"):
        embeddings *= 2
    norms = config["hidden_size"] * (2 * config["num_hidden_layers"] + 1)
    return linear, embeddings + norms


def adapter_parameters(config: dict[str, Any], lora) -> int:
    """How many parameters LoRA trains: r x (inputs + outputs) for each adapted layer."""
    layers = linear_layers(config)
    names = layers if lora.target_modules == "all-linear" else lora.target_modules
    return sum(lora.r * (i + o) * n for i, o, n in (layers[m] for m in names if m in layers))


def estimate(config: dict[str, Any], settings) -> Estimate:
    """The Estimate for one GPU. `config`: config.json; `settings`: a TrainingConfig."""
    training, quantization = settings.training, settings.quantization
    linear, other = parameters(config)
    width = BYTES[settings.model.dtype]
    if quantization.load_in_4bit:
        per_weight = NF4_DOUBLE if quantization.bnb_4bit_use_double_quant else NF4_SINGLE
    else:
        per_weight = 1.0 if quantization.load_in_8bit else width
    quantised = quantization.load_in_4bit or quantization.load_in_8bit
    trained = adapter_parameters(config, settings.lora)
    trained_width = 2 if quantised and not training.fp16 else 4  # QLoRA trains in bfloat16
    state = next((b for name, b in OPTIMIZER.items() if name in training.optim), 8.0)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    inner = config.get("intermediate_size") or 2 * hidden
    tokens = training.per_device_train_batch_size * training.max_length
    layer = tokens * (16 * hidden + 8 * inner)  # what one layer keeps for its backward pass, bytes
    kept = tokens * hidden * width * layers + layer if training.gradient_checkpointing else 0
    return Estimate(
        weights=linear * per_weight + other * width,
        adapter=trained * trained_width,
        gradients=trained * trained_width,
        optimizer=trained * state,
        activations=kept or layer * layers,
        logits=tokens * config["vocab_size"] * (width + 8),  # logits, float32 copy, its gradient
        parameters=linear + other,
        trained=trained,
    )


def seconds(config: dict[str, Any], tokens: int, tflops: float, checkpointing: bool) -> float:
    """Training time for `tokens` (padding not counted) at a sustained rate.

    Forward 2, gradients of the activations 2, recomputation 2 FLOP a parameter and token.
    """
    linear, other = parameters(config)
    return (6 if checkpointing else 4) * (linear + other / 2) * tokens / (tflops * 1e12)


REMEDIES = (  # in the order in which to try them: what costs least first
    ("per_device_train_batch_size", "halve it and double gradient_accumulation_steps: same result"),
    ("gradient_checkpointing", "true: about 30 % slower"),
    ("load_in_4bit", "true: the base in a quarter of the memory"),
    ("max_length", "lower it: rows longer than that are cut (data_prep reports lengths)"),
    ("optim", "paged_adamw_8bit"),
    ("r", "a smaller rank, or fewer target_modules"),
)


def remedies(settings) -> list[str]:
    """What to lower, in order, leaving out what is already low."""
    t, q = settings.training, settings.quantization
    done = {
        "per_device_train_batch_size": t.per_device_train_batch_size == 1,
        "gradient_checkpointing": t.gradient_checkpointing,
        "load_in_4bit": q.load_in_4bit,
        "optim": "8bit" in t.optim,
    }
    return [f"{name}: {what}" for name, what in REMEDIES if not done.get(name)]
