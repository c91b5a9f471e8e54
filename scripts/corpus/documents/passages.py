"""Documents in pieces: paragraphs, passages of bounded length, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Þ])|(?<=[。！？])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Capt|Rev|Hon|Jr|Sr|No|Nos|Inc|Co|Corp|Ltd|v|vs|Art|"
    r"Sec|Cir|App|Supp|Dist|Stat|Fig|Cf|cf|e\.g|i\.e|etc|al|U\.S|D\.C|approx|Jan|Feb|Aug|Sept|Oct|Nov|Dec)|\b[A-Z])\.\Z"
)


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs with their line breaks undone: a book wraps its lines, a row does not."""
    for block in re.split(r"\n\s*\n", text):
        joined = " ".join(line.strip() for line in block.split("\n")).strip()
        if joined:
            yield joined


def sentences(text: str) -> list[str]:
    """The text's sentences, each as it stands there; an abbreviation does not end one."""
    result, begin = [], 0
    for border in _SENTENCE.finditer(text):
        if not _ABBREVIATION.search(text, begin, border.start()):
            result.append(text[begin : border.end()].strip())
            begin = border.end()
    return [s for s in (*result, text[begin:].strip()) if s]


def pieces(text: str, limit: int) -> Iterator[tuple[str, str]]:
    """(what parts it from the piece before, piece): paragraphs, and of those above `limit`
    characters the sentences; none is above `limit`."""
    for paragraph in paragraphs(text):
        if len(paragraph) <= limit:
            yield "\n", paragraph
            continue
        parting = "\n"
        for sentence in sentences(paragraph):
            while len(sentence) > limit:
                cut = sentence.rfind(" ", 1, limit)
                cut = cut if cut > 0 else limit
                yield parting, sentence[:cut]
                sentence, parting = sentence[cut:].strip(), " "
            if sentence:
                yield parting, sentence
            parting = "" if sentence[-1:] > "\u2e80" else " "  # Chinese has no space there


def passages(text: str, limit: int, overlap: int = 0) -> list[str]:
    """Neighbouring pieces joined up to `limit` characters; each begins with up to `overlap`
    characters of whole words from the end of the one before."""
    result: list[str] = []
    current = ""
    for parting, piece in pieces(text, limit - overlap - 1):
        if current and len(current) + 1 + len(piece) > limit:
            result.append(current)
            current = _tail(current, overlap)
        current = f"{current}{parting}{piece}".strip()
    if current:
        result.append(current)
    return result


def _tail(text: str, length: int) -> str:
    """The last whole words of `text` within `length` characters."""
    tail = text[-length:] if length else ""
    return tail[tail.find(" ") + 1 :] if " " in tail else ""
