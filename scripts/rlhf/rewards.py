"""Rewards of answers: by a reward model, or by functions that need no model. Higher is better.

Called as TRL's GRPOTrainer and RLOOTrainer call them: with completions (texts), completion_ids,
and the dataset's columns; `row` is the place of the prompt in the file's rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from base_model import chat_template
from corpus.rows import Row
from rlhf import preference_rows


class RewardModel:
    """A reward model as a function of completions. Rewards are its head's number, unscaled."""

    __name__ = "reward_model"

    def __init__(self, model, tokenizer, rows: Sequence[Row], batch_size: int):
        self.model, self.tokenizer = model, tokenizer
        self.rows, self.batch_size = rows, batch_size

    def __call__(self, completions: Sequence[str], row: Sequence[int], **_: Any) -> list[float]:
        texts = [
            chat_template.render(
                self.tokenizer,
                [*preference_rows.prompt_of(self.rows[i]), {"role": "assistant", "content": text}],
                self.rows[i].tools,
            )
            for text, i in zip(completions, row, strict=True)
        ]
        return [
            score
            for first in range(0, len(texts), self.batch_size)
            for score in self._scores(texts[first : first + self.batch_size])
        ]

    def _scores(self, texts: list[str]) -> list[float]:
        import torch

        inputs = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            logits = self.model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits
        return logits[:, 0].float().tolist()


def functions(
    names: Sequence[str], rows: Sequence[Row], tokenizer, most: int, model: RewardModel | None
) -> list[Callable[..., list[float]]]:
    """The reward functions of these names. `most`: max_completion_length, for `ended`."""
    from adapters import metrics

    def f1(completions, row, **_):
        """Shared words with the chosen answer, 0 to 1 (SQuAD)."""
        return [metrics.f1(c, _reference(rows, i)) for c, i in zip(completions, row, strict=True)]

    def exact_match(completions, row, **_):
        """1 where the answer is the chosen one (SQuAD's normalisation)."""
        pairs = zip(completions, row, strict=True)
        return [metrics.exact_match(c, _reference(rows, i)) for c, i in pairs]

    def ended(completion_ids, **_):
        """1 where the answer ends by itself within max_completion_length."""
        end = tokenizer.eos_token_id
        return [float(len(ids) < most or ids[-1] == end) for ids in completion_ids]

    def valid_json(completions, **_):
        """1 where the answer is JSON."""
        return [float(_parses(text)) for text in completions]

    known = {"f1": f1, "exact_match": exact_match, "ended": ended, "json": valid_json}
    return [known[name] if name != "reward_model" else model for name in names]


def _reference(rows: Sequence[Row], place: int) -> str:
    return preference_rows.reference_of(rows[place])


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def total(
    rewards: Sequence[Callable[..., list[float]]], weights: Sequence[float] | None, **given: Any
) -> list[float]:
    """The weighted sum of all rewards for each completion, as the trainers add them up."""
    weights = weights or [1.0] * len(rewards)
    columns = [reward(**given) for reward in rewards]
    return [
        sum(w * value for w, value in zip(weights, values, strict=True))
        for values in zip(*columns, strict=True)
    ]
