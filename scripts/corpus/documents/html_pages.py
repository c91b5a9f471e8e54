"""The article of a web page, without menus, comments and cookie notes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from corpus.rows import Document, Reject, name_of

# Elements that BeautifulSoup leaves out where trafilatura finds no article
_FURNITURE = ["script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form"]
_BLOCKS = ["p", "div", "h1", "h2", "h3", "ul", "ol", "table", "article", "section"]
_SHOWS_LINES = re.compile(r"white-space:\s*(?:pre|break-spaces)")
_MAY_HAVE_CODE = re.compile(rb"<(?:pre|xmp|listing|code|samp)\b|white-space:\s*(?:pre|break)", re.I)
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
    """(title, text) of a page; paragraphs are parted by a blank line, code is fenced by ```.

    The page's encoding is detected.
    """
    data, code = _without_code(data)
    title, text = _article(data)
    for mark, block in code.items():  # a mark that is not there stood outside the article
        text = text.replace(mark, f"```\n{block}\n```")
    return title, text


def _without_code(data: bytes) -> tuple[bytes, dict[str, str]]:
    """(the page with a mark in place of each block of code, {mark: its text}): lines are content
    there."""
    if not _MAY_HAVE_CODE.search(data):
        return data, {}
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "lxml")
    code: dict[str, str] = {}
    for element in soup.find_all(_is_code):
        if element.find_parent(_is_code) is not None:
            continue
        for line_break in element.find_all("br"):
            line_break.replace_with("\n")
        mark = f"TANDEMPREFORMATTED{len(code)}END"
        code[mark] = element.get_text().strip("\n").rstrip()
        paragraph = soup.new_tag("p")
        paragraph.string = mark
        element.replace_with(paragraph)
    return (str(soup).encode(), code) if code else (data, {})


def _is_code(element) -> bool:
    """Whether line breaks and blanks of an element are content: <pre>, its old names, a style that
    says so around nothing but text, and <code> of several lines that stands alone."""
    if element.name in ("pre", "xmp", "listing"):
        return True
    if _SHOWS_LINES.search(element.get("style") or ""):
        return element.find(_BLOCKS) is None
    if element.name not in ("code", "samp"):
        return False
    text = element.get_text().strip()
    neighbours = (element.previous_sibling, element.next_sibling)
    if any(isinstance(node, str) and node.strip() for node in neighbours):
        return False
    return "\n" in text or element.find("br") is not None


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
