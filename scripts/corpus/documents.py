"""Documents as text with their title and page: Gutenberg and plain text, WikiExtractor."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from corpus.readers import Unreadable, text_of_file
from corpus.rows import Reject

_MARK = re.compile(
    r"^\*\*\* ?(START|END) OF (?:THE |THIS )?PROJECT GUTENBERG EBOOK"
    r"(?:[^*]|\*(?!\*\*))*\*\*\*[^\n]*$",
    re.M | re.I,
)
_LAST_LINE = re.compile(
    r"\n[ \t]*End of (?:the )?Project Gutenberg(?:'s)? [^\n]*(?:\n[^\n]+)*\s*\Z"
)
_HEADER = re.compile(r"^(?:Title|Author|Language|Release Date):[ \t]*(.+)$", re.M)
_TITLE = re.compile(r"^Title:[ \t]*(.+(?:\n[ \t]+\S.*)*)", re.M)
_WIKI = re.compile(r'<doc id="([^"]*)" url="([^"]*)" title="(.*?)">\n(.*?)\n?</doc>', re.S)


@dataclasses.dataclass
class Document:
    """One text to be read in order. `page` counts from 1; None where there are no pages."""

    source: str
    title: str
    text: str
    page: int | None = None
    number: int = 0  # its place in the file, from 1


def strip_gutenberg(text: str) -> tuple[str, str | None]:
    """(the book alone, its title from the header); text without markers comes back as it is.

    The last START marker before the first END counts: some files have a header in a header.
    """
    starts, end = [], None
    for found in _MARK.finditer(text):
        if found[1].upper() == "END":
            end = found.start()
            break
        starts.append(found)
    if not starts and end is None:
        return text, None
    begin = starts[-1].end() if starts else 0
    title = _TITLE.search(text[: begin or 5000])
    body = _LAST_LINE.sub("", text[begin:end].rstrip() + "\n")
    return body.strip("\n"), " ".join(title[1].split()) if title else None


def read_text(path: Path, source: str, encoding: str | None = None) -> Iterator[Document | Reject]:
    """A text file: one Document, or one an article for WikiExtractor output."""
    try:
        text = text_of_file(path, encoding, guess=True)
    except Unreadable as error:
        yield Reject(source, 0, "unreadable", str(error))
        return
    if text.lstrip().startswith("<doc id="):
        yield from _articles(text, source)
        return
    body, title = strip_gutenberg(text)
    if not body.strip():
        yield Reject(source, 0, "unreadable", "no text in it; copy it again or delete it")
        return
    yield Document(source, title or _name(path), body, number=1)


def _articles(text: str, source: str) -> Iterator[Document | Reject]:
    import html

    number = 0
    for number, (_, _, title, body) in enumerate(_WIKI.findall(text), 1):
        title = html.unescape(title)
        body = body.strip().removeprefix(title).strip()
        if body:
            yield Document(source, title, body, number=number)
        else:
            yield Reject(source, number, "redirect page", f"{title} has no text", bad=False)
    if number != text.count("<doc id="):
        yield Reject(source, 0, "unreadable", "a <doc> is not closed; extract the file again")


def _name(path: Path) -> str:
    return path.stem.replace("_", " ").strip()
