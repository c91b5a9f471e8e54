"""Text that many rows share: a passage that several questions are about, a schema, instructions.

Near-duplicates are judged by what differs, and rows about one passage stay on one side of the
split.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from corpus import deduplication
from corpus.rows import Row

LONG = 100  # characters that two prompts share before what differs counts alone
_OFTEN = 3  # rows that may share a sentence before it counts as shared by all of them
_ANSWER = 20  # characters of an answer that says more than a label
_SENTENCE = 60  # characters of a sentence that tells which passage a row is about
_PIECES = re.compile(r"\n+|(?<=[.!?。！？;}\]])\s*(?=\S)")
_PHRASES = re.compile(r"(?<=[,;:(){}\[\]])\s*(?=\S)")


def pieces(text: str) -> list[str]:
    """The text's lines and sentences; of very long ones the phrases."""
    result: list[str] = []
    for piece in _PIECES.split(text):
        result += _PHRASES.split(piece) if len(piece) > 300 else [piece]
    return [piece.strip() for piece in result if piece.strip()]


def prompt_of(row: Row) -> str:
    return "\n".join(m["content"] for m in row.messages if m["role"] == "user")


def answers_of(row: Row) -> str:
    """What the row says besides its users' turns."""
    users = [m for m in row.messages if m["role"] == "user"]
    rest = [m for m in row.messages if m["role"] != "user"]
    return Row(rest, rejected=row.rejected).text() if users else row.text()


def distinct_texts(rows: Sequence[Row]) -> list[str]:
    """Each row's text as near-duplicates are judged by: without what more than three rows share."""
    prompts = [prompt_of(row) for row in rows]
    counts: Counter[int] = Counter()
    for prompt in prompts:
        if len(prompt) >= LONG:
            counts.update({hash(piece) for piece in pieces(prompt)})
    often = {key for key, n in counts.items() if n > _OFTEN}
    return [
        _without(row, prompt, often) if often and len(prompt) >= LONG else row.text()
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _without(row: Row, prompt: str, often: set[int]) -> str:
    """The row's text with a short mark in place of the prompt's pieces that are `often` there."""
    all_pieces = pieces(prompt)
    left_out = [piece for piece in all_pieces if hash(piece) in often]
    kept = [piece for piece in all_pieces if hash(piece) not in often]
    if not kept or sum(map(len, left_out)) < LONG:
        return row.text()
    mark = hashlib.blake2b("\n".join(left_out).encode("utf-8", "replace"), digest_size=6)
    return "\n".join([mark.hexdigest(), *kept, answers_of(row)])


def differ(one: Row, other: Row, threshold: float, width: int) -> bool:
    """Whether two rows on one long passage differ in what they ask and answer about it.

    Where one prompt only adds words to the other's, longer answers that differ decide.
    """
    sides = [pieces(prompt_of(row)) for row in (one, other)]
    shared = set(sides[0]) & set(sides[1])
    if sum(map(len, shared)) < LONG:
        return False
    rests = ["\n".join(piece for piece in side if piece not in shared) for side in sides]
    answers = [answers_of(row) for row in (one, other)]
    small, large = sorted((deduplication.normal(rest) for rest in rests), key=len)
    if small in large:
        if min(map(len, answers)) < _ANSWER:
            return False
        texts = answers
    elif deduplication.normal(answers[0]) == deduplication.normal(answers[1]):
        texts, threshold = rests, threshold / 2  # a sentence with a word changed is not another
    else:
        texts = [f"{rest}\n{answer}" for rest, answer in zip(rests, answers, strict=True)]
    return deduplication.jaccard(*deduplication.shingle_sets(texts, width)) < threshold


def group(rows: Sequence[Row]) -> None:
    """Give rows that share a passage one `group`, so that they stay on one side of the split.

    What more than a fifth of the rows share is no passage but a schema or an instruction.
    """
    most = max(10, len(rows) // 5)
    members: dict[tuple[str, int], list[int]] = {}
    for place, row in enumerate(rows):
        for key in _keys(row):
            members.setdefault(key, []).append(place)
    parents = list(range(len(rows)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    for (kind, _), places in members.items():
        if len(places) > 1 and (kind == "group" or len(places) <= most):
            for place in places[1:]:
                parents[root(place)] = root(places[0])
    sizes = Counter(map(root, range(len(rows))))
    for place, row in enumerate(rows):
        if 1 < sizes[root(place)] <= max(most, len(rows) // 2):
            first = rows[root(place)]
            row.group = first.group or first.where


def _keys(row: Row) -> Iterable[tuple[str, int]]:
    if row.group:
        yield "group", hash(row.group)
    if row.passage.strip():
        yield "passage", hash(row.passage.strip())
    prompt = prompt_of(row)
    if len(prompt) >= LONG:
        for key in {hash(piece) for piece in pieces(prompt) if len(piece) >= _SENTENCE}:
            yield "piece", key
