"""Which encoding a file that is not UTF-8 is in: tried on the whole file, or no answer.

Each candidate decodes the bytes; of the characters above ASCII, the share that its language uses
every day is its score. A wrong encoding gives rare signs and scores low.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

_LATIN = ("cp1252", "iso8859-1", "iso8859-15", "cp1250", "iso8859-2", "cp1254", "iso8859-9")
_PUNCTUATION = re.compile("[\u3000-\u3020\uff01-\uff5e\u2010-\u2026\u00a0-\u00bf€№]")
_KANA = re.compile("[\u3041-\u30fe]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_COMMON_HAN = re.compile("[的一是不了在人有我他这這为為大来來以个個中上们們到说說国國和地子]")
_COMMON_HANGUL = re.compile("[이다는을의가에고도하지로은한를어기사서인습니까]")
_CYRILLIC = re.compile("[а-яё]"), re.compile("[оеаинтсрвлк]")
_INNER_CAPITAL = re.compile("[а-яё][А-ЯЁ]")  # the Mac's Cyrillic, read as cp1251
_GREEK = re.compile("[ά-ώ]"), re.compile("[αοιετσνηυρπκάίό]")
_HEBREW = re.compile("[א-ת]"), re.compile("[יוהלארתבשמ]")
_MIXED = re.compile("[a-z][^\\W\\d_a-zA-Z]|[^\\W\\d_a-zA-Z][a-z]", re.I)
_WESTERN = re.compile("[äöüßÄÖÜéèêëàâçñóíáúìòùôîïûåøæœÉÀÇÑ“”‘’–—…€«»°§·™®©]")
_BEST, _MARGIN = 0.85, 0.05  # least score, and least distance to the second


def guess(data: bytes) -> str | None:
    """The name of the encoding that all of `data` reads well in; None where that is not clear."""
    scores = []
    for name, score in _CANDIDATES.items():
        try:
            whole = data.decode(name)
        except UnicodeDecodeError:
            continue
        text = re.sub("[\x00-\x7f]+", "", whole)
        odd = re.search("[\x80-\x9f\ufffd]", text)
        mixed = name not in _LATIN and len(_MIXED.findall(whole)) > 0.1 * len(text)
        mixed = mixed or len(_INNER_CAPITAL.findall(whole)) > 0.01 * len(text)
        if text and not odd and not mixed and not is_wrong(whole, name):
            scores.append((score(text) / len(text), name))
    scores.sort(reverse=True)
    if not scores or scores[0][0] < _BEST:
        return None
    if len(scores) > 1 and scores[0][0] - scores[1][0] < _MARGIN:
        return None
    return scores[0][1]


def _first_level(text: str, encoding: str, leads: range) -> int:
    """Characters in the part of a character set that holds the frequent ones."""
    count = 0
    for c in text:
        coded = c.encode(encoding, "ignore")
        count += len(coded) == 2 and coded[0] in leads
    return count


def _han(encoding: str, leads: range):
    def score(text: str) -> float:
        if len(_COMMON_HAN.findall(text)) < 0.04 * len(text) or len(_KANA.findall(text)) > 2:
            return 0
        return _first_level(text, encoding, leads) + len(_PUNCTUATION.findall(text))

    return score


def _japanese(text: str) -> float:
    kana = len(_KANA.findall(text))
    if kana < 0.2 * len(text):
        return 0
    return kana + _first_level(text, "euc_jp", range(0xB0, 0xD0)) + len(_PUNCTUATION.findall(text))


def _korean(text: str) -> float:
    if len(_COMMON_HANGUL.findall(text)) < 0.15 * len(text):
        return 0
    return len(_HANGUL.findall(text)) + len(_PUNCTUATION.findall(text))


def _alphabet(letters: re.Pattern, common: re.Pattern):
    """The score of an alphabet: its small letters, if over half of them are its common ones."""

    def score(text: str) -> float:
        small = len(letters.findall(text))
        if len(common.findall(text)) < 0.55 * small:
            return 0
        return small + len(_PUNCTUATION.findall(text))

    return score


_CANDIDATES = {
    "gb18030": _han("gb2312", range(0xB0, 0xD8)),
    "big5": _han("big5", range(0xA4, 0xC7)),
    "cp932": _japanese,
    "euc_jp": _japanese,
    "cp949": _korean,
    "cp1251": _alphabet(*_CYRILLIC),
    "koi8_r": _alphabet(*_CYRILLIC),
    "cp1253": _alphabet(*_GREEK),
    "cp1255": _alphabet(*_HEBREW),
    "cp1252": lambda text: len(_WESTERN.findall(text)),
}


def is_wrong(text: str, encoding: str) -> bool:
    """Whether a Western encoding made of the bytes what no text is: every third letter accented."""
    if codecs.lookup(encoding).name not in _LATIN:
        return False
    letters = sum(c.isalpha() for c in text)
    accented = sum(c > "\x7f" and unicodedata.category(c)[0] in "LSP" for c in text)
    return accented * 3 > letters and accented > 8
