"""Documents as text with title and page: plain text, Gutenberg, WikiExtractor, HTML, PDF.

`read` chooses by the file's first bytes and its name. What cannot be read, and a page without
text, is a Reject; nothing is skipped silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpus.documents import html_pages, pdf_pages
from corpus.rows import Document, Reject, name_of
from corpus.sources import readers

Item = Document | Reject

_MARK = re.compile(
    r"^\*\*\* ?(START|END) OF (?:THE |THIS )?PROJECT GUTENBERG EBOOK"
    r"(?:[^*]|\*(?!\*\*))*\*\*\*[^\n]*$",
    re.M | re.I,
)
_LAST_LINE = re.compile(
    r"\n[ \t]*End of (?:the )?Project Gutenberg(?:'s)? [^\n]*(?:\n[^\n]+)*\s*\Z"
)
_TITLE = re.compile(r"^Title:[ \t]*(.+(?:\n[ \t]+\S.*)*)", re.M)
_WIKI = re.compile(r'<doc id="([^"]*)" url="([^"]*)" title="(.*?)">\n(.*?)\n?</doc>', re.S)


def strip_gutenberg(text: str) -> tuple[str, str | None]:
    """(the book alone, its title from the header); text without markers comes back as it is.

    The last START marker before the first END counts: some files have a header in a header.
    """
    starts, end = [], None
    for mark in _MARK.finditer(text):
        if mark[1].upper() == "END":
            end = mark.start()
            break
        starts.append(mark)
    if not starts and end is None:
        return text, None
    begin = starts[-1].end() if starts else 0
    title = _TITLE.search(text[: begin or 5000])
    body = _LAST_LINE.sub("", text[begin:end].rstrip() + "\n")
    return body.strip("\n"), " ".join(title[1].split()) if title else None


def kind_of(path: Path) -> str | None:
    """'pdf', 'html' or 'text', by first bytes and name; None for other kinds of file."""
    with open(path, "rb") as f:
        head = f.read(readers.SNIFF)
    suffix = path.suffix.lower()
    if head.lstrip()[:5] == b"%PDF-" or suffix == ".pdf":
        return "pdf"
    if suffix in (".html", ".htm", ".xhtml") or re.match(rb"\s*<(!doctype html|html)", head, re.I):
        return "html"
    named = suffix in ("", ".txt", ".text", ".md", ".rst") or path.name.startswith("wiki_")
    return "text" if named and not readers.looks_binary(head) else None


def read(
    path: Path, source: str, kind: str, encoding: str | None = None, recipe: str = ""
) -> Iterator[Item]:
    """The documents of a file: one a page for PDF, one an article for WikiExtractor, else one."""
    if path.stat().st_size == 0:
        yield Reject(source, 0, "unreadable", "the file has 0 bytes; copy it again or delete it")
    elif kind == "pdf":
        yield from pdf_pages.read(path, source)
    elif kind == "html":
        yield from html_pages.read(path, source)
    else:
        yield from _read_text(path, source, encoding, recipe)


def _read_text(path: Path, source: str, encoding: str | None, recipe: str) -> Iterator[Item]:
    try:
        text = readers.text_of_file(path, encoding, True, recipe)
    except readers.Unreadable as error:
        yield Reject(source, 0, "unreadable", str(error))
        return
    if text.lstrip().startswith("<doc id="):
        yield from _articles(text, source)
        return
    body, title = strip_gutenberg(text)
    if not body.strip():
        yield Reject(source, 0, "no text", "nothing but white space; copy it again or delete it")
        return
    yield Document(source, title or name_of(path), body, number=1)


def _articles(text: str, source: str) -> Iterator[Item]:
    import html

    number = 0
    for number, (_, _, title, body) in enumerate(_WIKI.findall(text), 1):
        title = html.unescape(title)
        body = body.strip().removeprefix(title).strip()
        if body not in ("", title):
            yield Document(source, title, body, number=number)
        else:
            yield Reject(source, number, "redirect page", f"{title} has no text", bad=False)
    if number != text.count("<doc id="):
        yield Reject(source, 0, "unreadable", "a <doc> is not closed; extract the file again")
