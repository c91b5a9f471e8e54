"""Which language a text is in: by script, by English function words, else by langdetect, seeded."""

from __future__ import annotations

import re

# Scripts that one language (nearly) owns; Cyrillic, Arabic and Devanagari go to langdetect
_SCRIPTS = [
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
]
_OTHER_SCRIPT = re.compile("[\u0400-\u052f\u0600-\u06ff\u0900-\u0dff]")
_NOT_LATIN = re.compile("[^A-Za-z\u00c0-\u024f]+")
_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the of and to in is that for it was with as his on be at by had not are but from or have "
        "an they which one you were all her she there would their we him been has when who will no "
        "more if out so what this your my just about want know can get",
    )
)
_WORD = re.compile(r"[a-z']+")


class ForeignLanguageFilter:
    """Says which rows are in another language than those kept.

    config: config.schemas.data.LanguageFilterSection.
    """

    def __init__(self, config):
        self.config = config

    def foreign(self, text: str) -> str | None:
        """The language of `text` where it is not one of those kept, else None."""
        if not self.config.keep:
            return None
        language, sure = self.detect(text)
        kept = {k.split("-")[0] for k in self.config.keep}
        if language is None or sure < self.config.min_probability:
            return None
        return None if language.split("-")[0] in kept else language

    def detect(self, text: str) -> tuple[str | None, float]:
        """(language, probability); (None, 0.0) where the text is too short to say."""
        sample = text[:4000]
        latin = len(_NOT_LATIN.sub("", sample))
        foreign, other, counts = 0, 0, {}
        if not sample.isascii():
            counts = {name: len(pattern.findall(sample)) for name, pattern in _SCRIPTS}
            foreign, other = sum(counts.values()), len(_OTHER_SCRIPT.findall(sample))
        if foreign > max(latin, other):  # a character of Han says more than a letter
            japanese = counts["ja"] * 10 > counts["zh"]
            return ("ja" if japanese else max(counts, key=counts.get)), 1.0
        if other <= latin:
            if latin < self.config.min_chars:
                return None, 0.0
            words = _WORD.findall(sample.lower())
            if sum(w in _ENGLISH for w in words) > 0.2 * len(words):
                return "en", 1.0
        return self._langdetect(sample)

    @staticmethod
    def _langdetect(text: str) -> tuple[str | None, float]:
        from langdetect import DetectorFactory, LangDetectException, detect_langs

        DetectorFactory.seed = 0  # without a seed the same text gets different answers
        try:
            best = detect_langs(text)[0]
        except LangDetectException:  # digits or signs only
            return None, 0.0
        return best.lang, best.prob
