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
    """(title, text) of a page; paragraphs are parted by a blank line, <pre> is fenced by ```.

    The page's encoding is detected.
    """
    data, code = _without_code(data)
    title, text = _article(data)
    for mark, block in code.items():  # a mark that is not there stood outside the article
        text = text.replace(mark, f"```\n{block}\n```")
    return title, text


def _without_code(data: bytes) -> tuple[bytes, dict[str, str]]:
    """(the page with a mark in place of each <pre>, {mark: its text}): lines are content there."""
    if b"<pre" not in data.lower():
        return data, {}
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "lxml")
    code = {}
    for element in soup.find_all("pre"):
        if element.find_parent("pre") is not None:
            continue
        for line_break in element.find_all("br"):
            line_break.replace_with("\n")
        mark = f"TANDEMPREFORMATTED{len(code)}END"
        code[mark] = element.get_text().strip("\n").rstrip()
        paragraph = soup.new_tag("p")
        paragraph.string = mark
        element.replace_with(paragraph)
    return str(soup).encode(), code


def _article(data: bytes) -> tuple[str, str]:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a broken page is ours to report
    page = trafilatura.bare_extraction(data, with_metadata=True, include_comments=False)
    if page is not None and len(page.text or "") >= _ARTICLE:
        return " ".join((page.title or "").split()), page.text.replace("\n", "\n\n")
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
