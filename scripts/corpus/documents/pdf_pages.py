"""The text of a PDF, page by page, without running headers and stamps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from corpus.rows import Document, Reject, name_of

_DIGITS = re.compile(r"\d+")
_EDGE = 3  # lines at the top and at the bottom of a page where running lines stand


def read(path: Path, source: str) -> Iterator[Document | Reject]:
    """One Document a page with text; a Reject for each page without, or one for the file."""
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(path) as pdf:
            title = _title(pdf.get_metadata_value("Title")) or name_of(path)
            pages = [_text(page) for page in pdf]
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        remedy = "save it without password" if locked else "copy it again, or repair it with qpdf"
        yield Reject(source, 0, "unreadable", f"not a PDF that can be opened; {remedy}")
        return
    if not any(pages):
        remedy = f"a scan, {len(pages)} pages; add a text layer: ocrmypdf in.pdf out.pdf"
        yield Reject(source, 0, "no text layer", remedy, bad=False)
        return
    for number, text in enumerate(without_running_lines(pages), 1):
        if text:
            yield Document(source, title, text, page=number, number=number)
        else:
            yield Reject(source, number, "page without text", f"page {number}", bad=False)


def _title(text: str | None) -> str:
    return " ".join((text or "").removeprefix("Microsoft Word - ").split())


def _text(page) -> str:
    """A page's text; a word hyphenated at a line's end is whole again (pdfium marks it U+FFFE)."""
    text = page.get_textpage().get_text_range()
    return text.replace("\ufffe", "").replace("\r\n", "\n").replace("\x00", "").strip()


def without_running_lines(pages: list[str]) -> list[str]:
    """The pages without lines that over a quarter of them begin or end with, numbers aside."""
    if len(pages) < 3:
        return pages

    def edges(lines: list[str]) -> set[int]:
        count = len(lines)
        return {i for i in range(count) if i < _EDGE or i >= count - _EDGE}

    split = [[line for line in page.split("\n") if line.strip()] for page in pages]
    seen = Counter(shape for lines in split for shape in {_shape(lines[i]) for i in edges(lines)})
    with_text = sum(map(bool, split))
    running = {shape for shape, n in seen.items() if n > max(2, with_text // 4)}
    return [
        "\n".join(
            line
            for i, line in enumerate(lines)
            if i not in edges(lines) or _shape(line) not in running
        )
        for lines in split
    ]


def _shape(line: str) -> str:
    return _DIGITS.sub("#", " ".join(line.split()))
