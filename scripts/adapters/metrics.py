"""Scores of predicted texts against references: EM, F1, ROUGE-L, BLEU.

EM and F1 are those of the SQuAD v1.1 script, ROUGE-L is rouge-score's, BLEU is sacrebleu's.
A reference with a word that has no Latin letter or digit (Chinese, Russian, Hindi) is compared by
Unicode rules instead, since rouge-score's own tokenizer would drop that word: identical texts
score 1 in every script. The choice looks at references alone, so every model meets the same rule.
"""

from __future__ import annotations

import dataclasses
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

NAMES = ("exact_match", "f1", "rouge_l", "bleu")  # 0..1, BLEU 0..100; higher is better

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, kana, Han. One character is a word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003134f]"
)


@dataclasses.dataclass
class Scores:
    """One model's scores, row by row. `bleu`: sacrebleu's ten counts of each row, which add up."""

    exact_match: list[float]
    f1: list[float]
    rouge_l: list[float]
    bleu: list[list[int]]  # [predicted length, reference length, correct 1..4, total 1..4]
    unicode_rows: int = 0  # rows whose references were compared by the Unicode rules


# --- words ------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Lower-case words of any script: letters, digits and marks; unspaced scripts by character.

    >>> words("The HYBRID-antelope, 你好")
    ['the', 'hybrid', 'antelope', '你', '好']
    """
    text = unicodedata.normalize("NFKC", text).lower()
    found: list[str] = []
    last = "gap"  # what the character before was: gap, letter (or digit), or an unspaced one
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind not in "LNM" or (kind == "M" and last == "gap"):
            last = "gap"
        elif kind == "M":
            found[-1] += character
        elif _UNSPACED.match(character):
            found.append(character)
            last = "unspaced"
        else:
            if last == "letter":
                found[-1] += character
            else:
                found.append(character)
            last = "letter"
    return found


def needs_unicode(reference: str) -> bool:
    """Whether `reference` has a word without any of a-z0-9, which ASCII rules would lose."""
    return not reference.isascii() and any(not re.search("[a-z0-9]", w) for w in words(reference))


# --- exact match and F1 -----------------------------------------------------------------------


def normalise(text: str) -> str:
    """SQuAD v1.1: lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _answer(text: str, by_unicode: bool) -> list[str]:
    return words(_ARTICLES.sub(" ", text.lower())) if by_unicode else normalise(text).split()


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both are equal after normalising, else 0.0."""
    by_unicode = needs_unicode(reference)
    return float(_answer(prediction, by_unicode) == _answer(reference, by_unicode))


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both, with multiplicity."""
    by_unicode = needs_unicode(reference)
    predicted, expected = _answer(prediction, by_unicode), _answer(reference, by_unicode)
    same = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * same / (len(predicted) + len(expected)) if same else 0.0


# --- ROUGE-L and BLEU -------------------------------------------------------------------------


def rouge_scorers() -> dict[bool, object]:
    """rouge-score's ROUGE-L scorers: {False: with its own tokenizer, True: with `words`}."""
    from rouge_score import rouge_scorer, tokenizers

    class Words(tokenizers.Tokenizer):
        def tokenize(self, text):
            return words(text)

    return {
        False: rouge_scorer.RougeScorer(["rougeL"]),
        True: rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words()),
    }


def rouge_l(prediction: str, reference: str, scorers: dict[bool, object]) -> float:
    """F-measure of the longest common subsequence of words."""
    scorer = scorers[needs_unicode(reference)]
    return scorer.score(reference, prediction)["rougeL"].fmeasure


def bleu_tokenizer(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's tokenizer for these references: 13a; zh for Chinese, char for other unspaced."""
    text = "".join(reference for row in references for reference in row)
    letters = sum(c.isalnum() for c in text)
    unspaced = _UNSPACED.findall(text)
    if len(unspaced) * 3 <= letters or not unspaced:
        return "13a"
    chinese = sum("\u3400" <= c <= "\u9fff" for c in unspaced)
    return "zh" if chinese > 0.95 * len(unspaced) else "char"


def bleu_counts(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenize: str
) -> list[list[int]]:
    """sacrebleu's sufficient statistics of each row: ten integers, see Scores.bleu."""
    from sacrebleu.metrics import BLEU

    # effective_order changes a sentence's score, not its counts; without it sacrebleu warns
    metric = BLEU(tokenize=tokenize, effective_order=True, force=True)
    rows = []
    for prediction, wanted in zip(predictions, references, strict=True):
        score = metric.sentence_score(prediction, wanted)
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return rows


def bleu(counts: Sequence[int]) -> float:
    """Corpus BLEU, 0..100, of the summed counts of the rows (see Scores.bleu)."""
    from sacrebleu.metrics import BLEU

    counts = [int(n) for n in counts]
    return BLEU.compute_bleu(
        counts[2:6], counts[6:], counts[0], counts[1], smooth_method="exp"
    ).score  # fmt: skip


def bleu_signature(references: Sequence[Sequence[str]], tokenize: str) -> str:
    """What sacrebleu prints beside a score, so that others can compute the same."""
    import sacrebleu

    many = {len(row) for row in references}
    counted = str(many.pop()) if len(many) == 1 else "var"
    version = sacrebleu.__version__
    return f"nrefs:{counted}|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{version}"


# --- all of them ------------------------------------------------------------------------------


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: str | None = None,
    advance=lambda: None,
) -> Scores:
    """Score each prediction against its references; with several, the best of them counts.

    `tokenize`: sacrebleu's tokenizer, None: as `bleu_tokenizer` says. `advance` is called per row.
    """
    scorers = rouge_scorers()
    result = Scores([], [], [], [])
    for prediction, wanted in zip(predictions, references, strict=True):
        result.exact_match.append(max(exact_match(prediction, w) for w in wanted))
        result.f1.append(max(f1(prediction, w) for w in wanted))
        result.rouge_l.append(max(rouge_l(prediction, w, scorers) for w in wanted))
        result.unicode_rows += any(map(needs_unicode, wanted))
        advance()
    result.bleu = bleu_counts(predictions, references, tokenize or bleu_tokenizer(references))
    return result
