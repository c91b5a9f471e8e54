"""Words of texts in any script, for scores of texts that ASCII rules would lose."""

from __future__ import annotations

import re
import unicodedata

# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, kana, Han. One character is a word.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003134f]"
)


def words(text: str) -> list[str]:
    """Lower-case words of any script: letters, digits and marks; unspaced scripts by character.

    >>> words("The HYBRID-antelope, 你好")
    ['the', 'hybrid', 'antelope', '你', '好']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    result: list[str] = []
    last = "gap"  # what the character before was: gap, letter (or digit), or an unspaced one
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind not in "LNM" or (kind == "M" and last == "gap"):
            last = "gap"
        elif kind == "M":
            result[-1] += character
        elif UNSPACED.match(character):
            result.append(character)
            last = "unspaced"
        else:
            if last == "letter":
                result[-1] += character
            else:
                result.append(character)
            last = "letter"
    return result


def needs_unicode(reference: str) -> bool:
    """Whether `reference` has a word without any of a-z0-9, which ASCII rules would lose."""
    return not reference.isascii() and any(not re.search("[a-z0-9]", w) for w in words(reference))
