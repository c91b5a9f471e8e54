"""All article records of a buffer at once: numpy tells where their values are."""

from __future__ import annotations

import re
from typing import Any

KEYS = ("id", "title", "url")  # of an article, in the order of the columns
SHORT_TEXT, TEXT, GET, LONG_GET, SIGNED = 0x8C, ord("X"), ord("h"), ord("j"), ord("J")
FRAME = 0x95
TEXTS, NUMBERS = (SHORT_TEXT, TEXT), (ord("K"), ord("M"), SIGNED)
SIZES = {  # opcodes of plain values, and the bytes that follow them (of a text: its length)
    SHORT_TEXT: 1, TEXT: 4, GET: 1, LONG_GET: 4, ord("K"): 1, ord("M"): 2, SIGNED: 4,
    ord("G"): 8, ord("N"): 0, 0x88: 0, 0x89: 0,
}  # fmt: skip


class RecordScan:
    """All records of a buffer at once, with numpy: where their values are, and which are regular:

    EMPTY_DICT memo MARK (BINGET value)... SETITEMS, a memo opcode after each text, a FRAME after
    any value. The id is a text or a number, title and url are texts, other values may be recalled.

    `at` is where each record has been read to; `good` is false where one is not as expected, and
    what is read of it then means nothing. Nothing is taken that does not begin where the record
    before it ended, so what looks like a record inside a text is none.
    """

    def __init__(self, buf: bytes, base: int, gets: list[tuple[bytes, int]], protocol: int):
        import numpy as np

        self.buf, self.base, self.gets = buf, base, gets
        self.memo, self.width = (0x94, 1) if protocol >= 4 else (ord("r"), 5)
        self.data = np.frombuffer(buf, np.uint8)
        self.size = np.zeros(256, "i8")
        self.size[list(SIZES)] = list(SIZES.values())
        self.heads = np.array(self.candidates(), "i8")
        self.at = self.heads + 1 + self.width
        self.good = self.byte(self.heads + 1) == self.memo
        self.expect(b"(" + gets[0][0])
        self.heads, self.at = self.heads[self.good], self.at[self.good]
        self.good = self.good[self.good]
        self.memos = np.ones(len(self.heads), "i8")  # how many values a record memoizes
        self.recalled = np.full(len(self.heads), -1)  # the highest number that it recalls
        ends = [get for get, _ in gets[1:]] + [b"u"]
        self.values = [self.value(gets[i][1], after) for i, after in enumerate(ends)]
        self.last = self.breaks()

    def candidates(self) -> list[int]:
        """Where a record could begin: at every brace, unless the texts are full of them."""
        braces, find, at = [], self.buf.find, -1
        while (at := find(b"}", at + 1)) >= 0:  # memchr: three times as fast as the regex
            braces.append(at)
            if len(braces) > len(self.buf) >> 7:
                break
        else:
            return braces
        number = b"." * (self.width - 1)  # LONG_BINPUT says which, MEMOIZE counts
        begin = re.escape(b"}%c" % self.memo) + number + re.escape(b"(" + self.gets[0][0])
        return [m.start() for m in re.compile(begin, re.DOTALL).finditer(self.buf)]

    def expect(self, opcodes: bytes) -> None:
        """Pass over these opcodes in every record."""
        for place, byte in enumerate(opcodes):
            self.good &= self.byte(self.at + place) == byte
        self.at = self.at + len(opcodes)

    def byte(self, at: Any) -> Any:
        """The bytes at `at`; past the end, the last one."""
        return self.data.take(at, mode="clip")

    def value(self, place: int, after: bytes) -> tuple[Any, Any, Any]:
        """Read the value of a key, an eventual FRAME, and the opcodes `after`.

        Returns for each record whether it is a text; where that begins (or the number); its end.
        """
        import numpy as np

        op = self.byte(self.at)
        allowed = np.zeros(256, bool)
        allowed[list(TEXTS + (NUMBERS if place == 0 else tuple(SIZES) if place == 3 else ()))] = 1
        size, number = self.size[op], self.byte(self.at + 1).astype("i8")
        wide = np.flatnonzero(size > 1)
        for more in (1, 2, 3):  # little-endian
            part = self.byte(self.at[wide] + 1 + more).astype("i8") << (8 * more)
            number[wide] += np.where(size[wide] > more, part, 0)
        text = (op == SHORT_TEXT) | (op == TEXT)
        begin = self.at + 1 + size
        end = begin + np.where(text, number, 0)
        self.good &= allowed[op] & (~text | (self.byte(end) == self.memo))
        self.memos += text
        recall = (op == GET) | (op == LONG_GET)
        np.maximum(self.recalled, np.where(recall, number, -1), out=self.recalled)
        self.at = end + self.width * text
        self.at += 9 * (self.byte(self.at) == FRAME)
        self.expect(after)
        self.good &= self.at <= len(self.data)
        negative = (op == SIGNED) & (number >= 1 << 31)
        return text, np.where(text, begin, number - (negative.astype("i8") << 32)), end

    def breaks(self) -> Any:
        """The records after which another does not follow at once, or not a regular one."""
        import numpy as np

        ends = self.at + 9 * (self.byte(self.at) == FRAME)
        follows = self.good[1:] & (self.heads[1:] == ends[:-1])
        return np.flatnonzero(~np.append(follows, False))

    def run(self, at: int, known: int) -> tuple[int, int]:
        """First and last (exclusive) of the regular records that follow each other from `at` on.

        They recall nothing but the first `known` values of the memo.
        """
        at += 9 if self.buf[at : at + 1] == b"%c" % FRAME else 0
        first = int(self.heads.searchsorted(at))
        if first == len(self.heads) or self.heads[first] != at or not self.good[first]:
            return first, first
        last = int(self.last[self.last.searchsorted(first)]) + 1
        unknown = (self.recalled[first:last] >= known).nonzero()[0]
        return first, first + int(unknown[0]) if len(unknown) else last

    def columns(self, first: int, last: int) -> list[list]:
        """The values of some records, by column in the order of KEYS."""
        columns_of: list[list] = [[], [], []]
        for columns, (_, place) in zip(self.values, self.gets, strict=True):
            if place < 3:
                text, begin, end = (column[first:last] for column in columns)
                if text.all():
                    cuts = zip(begin.tolist(), end.tolist(), strict=True)
                    columns_of[place] = [self.buf[b:e] for b, e in cuts]
                else:
                    parts = zip(text.tolist(), begin.tolist(), end.tolist(), strict=True)
                    columns_of[place] = [self.buf[b:e] if t else b for t, b, e in parts]
        return columns_of
