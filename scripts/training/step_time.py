"""An estimate of a training's time: arithmetic, attention, padding, and the launches of the CPU.

A micro-batch of an 8B model launches about 11,000 kernels, whatever its size. Where the GPU is
done sooner than the CPU has launched them, the CPU sets the pace.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.model_shape import ModelShape

# Seconds of one CPU core for the launches of one micro-batch and layer (EPYC, 32 layers).
LAUNCH_4BIT, LAUNCH_BF16 = 0.35 / 32, 0.20 / 32
MUCH_WASTE = 0.2  # share of padding above which grouping by length or packing is recommended


def micro_batches(
    lengths: Sequence[int], rows: int, seed: int, step: int = 0
) -> list[tuple[int, int]]:
    """[(rows, longest)] of one epoch in a random order, as the trainer pads them.

    step: the rows of one optimizer step where they are sorted by length within it; 0: they are not.
    """
    order = list(lengths)
    random.Random(seed).shuffle(order)
    if step:
        order = sorted_steps(order, order, step)
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    return [(len(part), max(part)) for part in parts]


def sorted_steps(order: Sequence[int], lengths: Sequence[int], step: int) -> list[int]:
    """`order`, every `step` of it sorted by `lengths`, which has one for each; the longest first.

    >>> sorted_steps([7, 8, 9, 5], [1, 3, 2, 9], 3)
    [8, 9, 7, 5]
    """
    made: list[int] = []
    for begin in range(0, len(order), step):
        part = range(begin, min(begin + step, len(order)))
        made += [order[i] for i in sorted(part, key=lambda i: -lengths[i])]
    return made


def padding_share(lengths: Sequence[int], rows: int, seed: int, step: int = 0) -> float:
    """The share of computed tokens that is padding, 0 to 1. step: as for micro_batches."""
    padded = sum(count * longest for count, longest in micro_batches(lengths, rows, seed, step))
    return 1 - sum(lengths) / padded if padded else 0.0


def attention_flops(shape: ModelShape, length: int, padded: bool, checkpointing: bool) -> float:
    """FLOP a token of attention's own products, forward and backward.

    Causal attention does half of the square; the masked kernel does all of it.
    """
    passes = 4.5 if checkpointing else 3.5
    return passes * (4 if padded else 2) * length * shape.query * shape.layers


def token_flops(shape: ModelShape, supervised: float, checkpointing: bool) -> float:
    """FLOP a token of the linear layers: forward 2, backward 2, recomputation 2 a parameter.

    supervised: the share of tokens with loss, which alone pass the head.
    """
    passes = 6 if checkpointing else 4
    experts = 3 * shape.hidden * shape.active_inner * shape.layers if shape.expert_parameters else 0
    head = shape.vocabulary * shape.hidden
    return passes * (shape.linear_parameters + experts) + 6 * head * supervised


def epoch_seconds(
    shape: ModelShape, settings, lengths: Sequence[int], supervised: float, tflops: float,
    step: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """(seconds of an epoch on one GPU, share of micro-batches whose pace the CPU sets).

    step: as for micro_batches.
    """
    training = settings.training
    quantised = settings.quantization.load_in_4bit or settings.quantization.load_in_8bit
    floor = (LAUNCH_4BIT if quantised else LAUNCH_BF16) * shape.layers
    checkpointing, rows = training.gradient_checkpointing, training.per_device_train_batch_size
    linear = token_flops(shape, supervised, checkpointing)
    total, bound = 0.0, 0
    if training.packing:
        count = -(-sum(lengths) // training.max_length)
        batches = [(rows, training.max_length)] * -(-count // rows)
    else:
        batches = micro_batches(lengths, rows, training.seed, step)
    for count, longest in batches:
        padded = not training.packing and rows > 1
        attention = attention_flops(shape, longest, padded, checkpointing)
        seconds = count * longest * (linear + attention) / (tflops * 1e12)
        bound += seconds < floor
        total += max(seconds, floor)
    return total, bound / len(batches) if batches else 0.0


def advice(waste: float, bound: float, settings, packs: bool = True) -> list[str]:
    """What makes a training faster, for padding `waste` and the share `bound` of slow launches.

    packs: whether the base keeps packed rows apart.
    """
    training, lines = settings.training, []
    if waste > MUCH_WASTE and not training.packing:
        packing = "training.packing=true, or " if packs else ""
        lines.append(
            f"{waste:.0%} of the computed tokens are padding: {packing}a smaller "
            "per_device_train_batch_size with more gradient_accumulation_steps"
        )
    if bound > 0.5:
        lines.append(
            "micro-batches are so small that the CPU sets the pace: a larger "
            "per_device_train_batch_size with less gradient_accumulation_steps"
            + (", or packing" if packs else "")
        )
    return lines
