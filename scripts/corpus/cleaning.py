"""Text as it should have been: mojibake, HTML entities, control characters, white space."""

from __future__ import annotations

import re
from collections import Counter

from corpus.rows import Message, Reject, Row

# control characters but \t \n; zero-width space, word joiner, byte-order mark (ZWJ and ZWNJ carry
# meaning in emoji and Persian and stay)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")  # a page's end is a line's, too
_ESCAPE = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\))")  # colours
_NBSP = re.compile("[\u00a0\u202f]")
_BLANK_START = re.compile(r"(?:[ \t]*\n)+")
_FIRST_COLUMN = re.compile(r" \S.*(?:\n(?:[ +-].*)?)+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half an emoji: JSON can hold it, UTF-8 cannot
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Cleaner:
    """Cleans rows as the `cleaning` section says, and counts what it mended.

    config: config.schemas.data.CleaningSection.
    """

    def __init__(self, config):
        from ftfy import TextFixerConfig, fix_text

        self.config = config
        self._fix_text = fix_text
        self._ftfy = TextFixerConfig(
            unescape_html=False, uncurl_quotes=False, fix_character_width=False,
            fix_latin_ligatures=False, normalization="NFC", remove_terminal_escapes=True,
        )  # fmt: skip

    def text(self, text: str, mended: Counter) -> str:
        """One text, clean. `mended` counts what was found, by name."""
        if text.isascii() and text.isprintable() and "&" not in text:
            return without_blank_ends(text)
        if self.config.html_entities and "&" in text and "`" not in text and "<" not in text:
            text = self._count(text, unescape(text), mended, "HTML entities")
        if self.config.control_characters:
            plain = _LINE_END.sub("\n", _ESCAPE.sub("", text))
            plain = _CONTROL.sub("", _NBSP.sub(" ", plain))
            text = self._count(text, plain, mended, "control characters")
        if self.config.mojibake and not text.isascii():
            text = self._count(text, self._fix_text(text, self._ftfy), mended, "mojibake")
        return without_blank_ends(text)

    @staticmethod
    def _count(before: str, after: str, mended: Counter, name: str) -> str:
        mended[name] += before != after
        return after

    def row(self, row: Row, mended: Counter) -> Row:
        """The row with every message clean; results of tools keep their JSON as it is."""
        for message in row.messages + (row.rejected or []):
            self._message(message, mended)
        return row

    def _message(self, message: Message, mended: Counter) -> None:
        content = _SURROGATE.sub("\ufffd", message["content"])
        message["content"] = content if message["role"] == "tool" else self.text(content, mended)

    def reject(self, row: Row, text: str | None = None) -> Reject | None:
        """Why a clean row is left out, or None: too short, too long, characters lost.

        text: row.text(), where the caller has it.
        """
        text = row.text() if text is None else text
        reason = None
        if len(text) < self.config.min_chars:
            reason = "too short"
        elif len(text) > self.config.max_chars:
            reason = "too long"
        elif "\ufffd" in text:
            reason = "characters lost (U+FFFD)"
        return Reject(row.source, row.number, reason, bad=False) if reason else None


def without_blank_ends(text: str) -> str:
    """The text without blank lines before and white space after it.

    An indented first line keeps its indentation, and what lies between stays: in code, blank
    lines and white space are content. One space before the text is none, unless every line has a
    mark in its first column, as in a diff.
    """
    text = text.rstrip()
    start = _BLANK_START.match(text)
    text = text[start.end() :] if start else text
    indented = text.startswith(("  ", "\t")) or _FIRST_COLUMN.fullmatch(text)
    return text if indented else text.lstrip()


def unescape(text: str) -> str:
    """HTML entities as characters, twice-escaped ones too ("&amp;amp;")."""
    import html

    for _ in range(3):
        decoded = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        if decoded == text:
            break
        text = decoded
    return text
