"""The next token of each row: greedy, or drawn with the row's own random numbers."""

from __future__ import annotations

from typing import Any

from serving.answer_row import TokenChance

LOWEST = -9999.0  # what stands for a logprob of minus infinity, which JSON has no word for


def pick(logits, answers: list[Any]) -> list[int | None]:
    """A token id for each row of `logits` [rows, vocabulary], float32; None where they are NaN.

    An answer has `temperature` (0: the likeliest token), `top_p`, `vocabulary` (ids from there on
    are padding of the matrix) and `dice` (random.Random). A row's draw depends on its own numbers
    and logits alone, never on the rows beside it. No number that an answer can have is too small:
    a temperature that float32 cannot hold is 0, and the likeliest token is always in the nucleus.
    """
    import torch

    logits = _guided(_masked(logits, answers), answers)
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


def _masked(logits, answers: list[Any]):
    """The logits without the padding of the matrix, whose ids are no tokens."""
    import torch

    if min(answer.vocabulary for answer in answers) >= logits.shape[-1]:
        return logits
    limit = torch.tensor([[answer.vocabulary] for answer in answers], device=logits.device)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(ids >= limit, float("-inf"))


def _guided(logits, answers: list[Any]):
    """The logits without the tokens that guides do not allow; a broken guide allows none."""
    import torch

    rows = [i for i, answer in enumerate(answers) if answer.guide]
    if not rows:
        return logits
    allowed = torch.zeros((len(rows), logits.shape[-1]), dtype=torch.bool)
    for place, i in enumerate(rows):
        mask = answers[i].allowed()
        if mask is not None:
            width = min(len(mask), logits.shape[-1])
            allowed[place, :width] = mask[:width]
    logits = logits.clone()
    logits[rows] = logits[rows].masked_fill(~allowed.to(logits.device), float("-inf"))
    return logits


def chances(logits, answers: list[Any], tokens: list[int | None]) -> list[TokenChance | None]:
    """The logprob of each row's token, and of the `top` likeliest; None where none was asked for.

    They are those of the model itself: temperature and top_p do not change them.
    """
    import torch

    listed: list[TokenChance | None] = [None] * len(answers)
    rows = [i for i, a in enumerate(answers) if a.top is not None and tokens[i] is not None]
    if not rows:
        return listed
    logprobs = torch.log_softmax(_masked(logits[rows], [answers[i] for i in rows]), -1)
    logprobs = logprobs.clamp(min=LOWEST)
    most = min(max(answers[i].top for i in rows), logits.shape[-1])
    best, ids = (part.tolist() for part in logprobs.topk(most, -1))
    for place, i in enumerate(rows):
        pairs = list(zip(ids[place], best[place], strict=True))[: answers[i].top]
        listed[i] = TokenChance(tokens[i], logprobs[place, tokens[i]].item(), pairs)
    return listed


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
