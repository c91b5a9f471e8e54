"""Documents in pieces: paragraphs, passages of bounded length, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Þ])|(?<=[。！？])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Capt|Rev|Hon|Jr|Sr|No|Nos|Inc|Co|Corp|Ltd|v|vs|Art|"
    r"Sec|Fig|Cf|cf|e\.g|i\.e|etc|al|U\.S|D\.C|approx|Jan|Feb|Aug|Sept|Oct|Nov|Dec)|\b[A-Z])\.$"
)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs with their line breaks undone: a book wraps its lines, a row does not."""
    for block in re.split(r"\n\s*\n", text):
        joined = " ".join(line.strip() for line in block.split("\n")).strip()
        if joined:
            yield joined


def sentences(text: str) -> list[str]:
    """The text's sentences; an abbreviation does not end one."""
    result: list[str] = []
    for piece in _SENTENCE.split(text):
        piece = piece.strip()
        if not piece:
            continue
        if result and _ABBREVIATION.search(result[-1]):
            result[-1] += " " + piece
        else:
            result.append(piece)
    return result


def pieces(text: str, limit: int) -> Iterator[str]:
    """Paragraphs, and of those above `limit` characters the sentences; none is above `limit`."""
    for paragraph in paragraphs(text):
        if len(paragraph) <= limit:
            yield paragraph
            continue
        for sentence in sentences(paragraph):
            while len(sentence) > limit:
                cut = sentence.rfind(" ", 1, limit)
                cut = cut if cut > 0 else limit
                yield sentence[:cut]
                sentence = sentence[cut:].strip()
            if sentence:
                yield sentence


def passages(text: str, limit: int, overlap: int = 0) -> list[str]:
    """Neighbouring pieces joined up to `limit` characters; each begins with up to `overlap`
    characters of whole words from the end of the one before."""
    result: list[str] = []
    current = ""
    for piece in pieces(text, limit - overlap):
        if current and len(current) + 1 + len(piece) > limit:
            result.append(current)
            current = _tail(current, min(overlap, limit - len(piece) - 1))
        current = f"{current}\n{piece}".strip()
    if current:
        result.append(current)
    return result


def _tail(text: str, length: int) -> str:
    if length <= 0:
        return ""
    tail = text[-length:]
    return tail[tail.find(" ") + 1 :] if " " in tail else ""
