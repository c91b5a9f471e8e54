"""The article of a web page, without menus, comments and cookie notes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from corpus.rows import Document, Reject, name_of

# Elements that BeautifulSoup leaves out where trafilatura finds no article
_FURNITURE = ["script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form"]
_ARTICLE = 100  # characters; below that trafilatura hands out menus too


def read(path: Path, source: str) -> Iterator[Document | Reject]:
    """One Document with the page's article (trafilatura), or all its text (BeautifulSoup)."""
    data = path.read_bytes()
    title, text = article(data)
    if not text.strip():
        yield Reject(source, 0, "no text", "a page without text; save the page as it is shown")
        return
    yield Document(source, title or name_of(path), text, number=1)


def article(data: bytes) -> tuple[str, str]:
    """(title, text) of a page; paragraphs are parted by a blank line. The encoding is found."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a broken page is ours to report
    found = trafilatura.bare_extraction(data, with_metadata=True, include_comments=False)
    if found is not None and len(found.text or "") >= _ARTICLE:
        return " ".join((found.title or "").split()), found.text.replace("\n", "\n\n")
    return _all_text(data)


def _all_text(data: bytes) -> tuple[str, str]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for element in soup.find_all(_FURNITURE):
        element.decompose()
    if soup.title:
        soup.title.decompose()
    return title, soup.get_text("\n\n", strip=True)
