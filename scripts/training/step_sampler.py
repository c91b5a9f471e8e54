"""The order of rows in which each optimizer step has its rows sorted by length.

A step learns from the rows that a random order gives it; sorted, its micro-batches hold rows of
like length, so that less is padded. The gradient of a step is a sum over its tokens and does not
depend on how the rows are cut into micro-batches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from training.step_time import sorted_steps


class StepSampler:
    """Row numbers of an epoch. The order depends on seed and epoch alone, so a resumed run has it.

    lengths: tokens of each row; step: rows of one optimizer step, over all processes.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int, epoch: Callable[[], int]):
        self.lengths, self.step, self.seed, self.epoch = lengths, step, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = list(range(len(self.lengths)))
        random.Random(f"{self.seed} {self.epoch()}").shuffle(order)
        return iter(sorted_steps(order, [self.lengths[i] for i in order], self.step))


def sorting(trainer_class: type) -> type:
    """A trainer whose steps have their rows sorted by length."""

    class SortingTrainer(trainer_class):
        def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
            rows = train_dataset if train_dataset is not None else self.train_dataset
            a = self.args
            step = a.per_device_train_batch_size * a.gradient_accumulation_steps * a.world_size
            # state.epoch is a whole number at the beginning of an epoch, and 1.4, say, in it.
            epoch = lambda: int((self.state.epoch or 0) + 1e-6)  # noqa: E731
            return StepSampler(list(map(len, rows["input_ids"])), step, a.seed, epoch)

    return SortingTrainer
