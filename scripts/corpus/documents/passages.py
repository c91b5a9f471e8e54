"""Documents in pieces: paragraphs, passages of bounded length, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Þ])|(?<=[。！？])")
_FENCED = re.compile(r"^(```.*?^```)[ \t]*$", re.M | re.S)
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Capt|Rev|Hon|Jr|Sr|No|Nos|Inc|Co|Corp|Ltd|v|vs|Art|"
    r"Sec|Cir|App|Supp|Dist|Stat|Fig|Cf|cf|e\.g|i\.e|etc|al|U\.S|D\.C|approx|Jan|Feb|Aug|Sept|Oct|Nov|Dec)|\b[A-Z])\.\Z"
)


def blocks(text: str) -> Iterator[tuple[str, bool]]:
    """(block, whether its lines are content): paragraphs in one line, code and verse as they are.

    A book wraps its lines and a row does not, but lines between ``` and indented lines stay.
    """
    for i, part in enumerate(_FENCED.split(text)):
        if i % 2:
            yield part, True
            continue
        for block in re.split(r"\n\s*?\n", part):
            lines = block.rstrip().strip("\n").split("\n")
            if any(line.startswith(("    ", "\t")) for line in lines[1:]):
                yield "\n".join(line.rstrip() for line in lines), True
            elif joined := " ".join(line.strip() for line in lines).strip():
                yield joined, False


def prose(text: str) -> Iterator[str]:
    """The runs of paragraphs between code, each in one line."""
    run: list[str] = []
    for block, verbatim in blocks(text):
        if verbatim:
            yield " ".join(run)
            run = []
        else:
            run.append(block)
    yield " ".join(run)


def sentences(text: str) -> list[str]:
    """The text's sentences, each unchanged; an abbreviation does not end one."""
    result, begin = [], 0
    for border in _SENTENCE.finditer(text):
        if not _ABBREVIATION.search(text, begin, border.start()):
            result.append(text[begin : border.end()].strip())
            begin = border.end()
    return [s for s in (*result, text[begin:].strip()) if s]


def pieces(text: str, limit: int) -> Iterator[tuple[str, str]]:
    """(what parts it from the piece before, piece): blocks, and of those above `limit` characters
    the sentences, or the lines of code; none is above `limit`."""
    for block, verbatim in blocks(text):
        if len(block) <= limit:
            yield "\n", block
            continue
        parting = "\n"
        for unit in block.split("\n") if verbatim else sentences(block):
            while len(unit) > limit:
                cut = unit.rfind(" ", 1, limit)
                cut = cut if cut > 0 else limit
                yield parting, unit[:cut]
                unit, parting = unit[cut:].strip(), " "
            if unit:
                yield parting, unit
            if verbatim:
                parting = "\n" if unit else "\n\n"
            else:  # Chinese has no space between sentences
                parting = "" if unit[-1:] > "\u2e80" else " "


def passages(text: str, limit: int, overlap: int = 0) -> list[str]:
    """Neighbouring pieces joined up to `limit` characters; each begins with up to `overlap`
    characters of whole words from the end of the one before."""
    result: list[str] = []
    current = ""
    for parting, piece in pieces(text, limit - overlap - 1):
        if current and len(current) + 1 + len(piece) > limit:
            result.append(current)
            current = _tail(current, overlap)
        current = f"{current}{parting}{piece}" if current else piece
    if current:
        result.append(current)
    return result


def _tail(text: str, length: int) -> str:
    """The last whole words of `text` within `length` characters."""
    tail = text[-length:] if length else ""
    return tail[tail.find(" ") + 1 :] if " " in tail else ""
