"""The next token of each row: greedy, or drawn with the row's own random numbers."""

from __future__ import annotations

from typing import Any


def pick(logits, answers: list[Any]) -> list[int | None]:
    """A token id for each row of `logits` [rows, vocabulary], float32; None where they are NaN.

    An answer has `temperature` (0: the likeliest token), `top_p`, `vocabulary` (ids from there on
    are padding of the matrix) and `dice` (random.Random). A row's draw depends on its own numbers
    and logits alone, never on the rows beside it. No number that an answer can have is too small:
    a temperature that float32 cannot hold is 0, and the likeliest token is always in the nucleus.
    """
    import torch

    limits = {answer.vocabulary for answer in answers}
    if min(limits) < logits.shape[-1]:
        limit = torch.tensor([[answer.vocabulary] for answer in answers], device=logits.device)
        ids = torch.arange(logits.shape[-1], device=logits.device)
        logits = logits.masked_fill(ids >= limit, float("-inf"))
    best, likeliest = logits.max(-1, keepdim=True)
    sound, chosen = torch.isfinite(best)[:, 0].tolist(), likeliest[:, 0].tolist()
    coldest = torch.finfo(torch.float32).tiny
    drawn = [i for i, a in enumerate(answers) if sound[i] and a.temperature >= coldest]
    for nucleus in (False, True):  # sorting is slow, and must not depend on the other rows
        rows = [i for i in drawn if (answers[i].top_p < 1) == nucleus]
        if rows:
            part = logits[rows] - best[rows]
            tokens = _draw(part, [answers[i] for i in rows], nucleus)
            for i, token in zip(rows, tokens, strict=True):
                chosen[i] = token
    return [token if good else None for token, good in zip(chosen, sound, strict=True)]


def _draw(logits, answers: list[Any], nucleus: bool) -> list[int]:
    """A token for each row; `logits` are at most 0, the likeliest one's is 0."""
    import torch

    def column(values: list[float]):
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    chances = torch.softmax(logits / column([a.temperature for a in answers]), -1)
    ids = None
    if nucleus:  # the likeliest tokens whose chances reach top_p together, one at least
        chances, ids = chances.sort(dim=-1, descending=True)
        before = chances.cumsum(-1) - chances
        beyond = before >= column([a.top_p for a in answers])
        beyond[:, 0] = False
        chances = chances.masked_fill(beyond, 0.0)
    sums = chances.cumsum(-1)
    point = column([a.dice.random() for a in answers]) * sums[:, -1:]
    place = (sums <= point).sum(-1, keepdim=True)
    last = (chances > 0).sum(-1, keepdim=True) - 1 if nucleus else chances.argmax(-1, keepdim=True)
    inside = chances.gather(-1, place.clamp(max=chances.shape[-1] - 1)) > 0
    place = torch.where(inside, place.clamp(max=chances.shape[-1] - 1), last)  # rounding's edge
    return (place if ids is None else ids.gather(-1, place))[:, 0].tolist()
