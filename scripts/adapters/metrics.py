"""The metrics of an evaluation: METRICS is the one table of their names, ranges and directions.

Reports, pages, the gate and the dashboard ask this table, so a new metric is one entry in it and
the function that scores a row. It is in the adapters room because the gate compares versions by
it; evaluation/ measures with it.

Exact match and F1 are those of the SQuAD scripts, ROUGE-L is rouge-score's, BLEU is sacrebleu's.
A reference with a word that has no Latin letter or digit (Chinese, Russian, Hindi) is compared by
Unicode rules instead, since rouge-score's own tokenizer would drop that word: identical texts
score 1 in every script. The choice looks at references alone, so every model meets the same rule.
"""

from __future__ import annotations

import dataclasses
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapters.unicode_words import UNSPACED, needs_unicode, words

_ARTICLES = re.compile(r"\b(a|an|the)\b")


# --- exact match and F1 -----------------------------------------------------------------------


def without_punctuation(text: str) -> str:
    """`text` in lower case, without ASCII punctuation, with single spaces."""
    return " ".join("".join(c for c in text.lower() if c not in string.punctuation).split())


def normalise(text: str) -> str:
    """SQuAD's form of an answer: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", without_punctuation(text)).split())


def squad_words(text: str, by_unicode: bool) -> list[str]:
    """The words that SQuAD's rule leaves; `by_unicode`: of any script."""
    return words(_ARTICLES.sub(" ", text.lower())) if by_unicode else normalise(text).split()


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both are the same words, else 0.0.

    SQuAD's rule, unless it leaves nothing of the reference (option "A", "The", "+"): then articles
    count, and where there is nothing but punctuation, that counts too. An empty reference is
    matched by an empty answer alone.
    """
    by_unicode = needs_unicode(reference)
    if squad_words(reference, by_unicode):
        return float(squad_words(prediction, by_unicode) == squad_words(reference, by_unicode))
    if without_punctuation(reference):
        return float(without_punctuation(prediction) == without_punctuation(reference))
    return float(prediction.lower().split() == reference.lower().split())


def f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of both, with multiplicity.

    Where SQuAD's rule leaves nothing of one of them, it is the exact match, as in SQuAD 2.0.
    """
    by_unicode = needs_unicode(reference)
    predicted, expected = (squad_words(text, by_unicode) for text in (prediction, reference))
    if not predicted or not expected:
        return exact_match(prediction, reference)
    same = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * same / (len(predicted) + len(expected))


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
    unspaced = UNSPACED.findall(text)
    if len(unspaced) * 3 <= letters or not unspaced:
        return "13a"
    chinese = sum("\u3400" <= c <= "\u9fff" for c in unspaced)
    return "zh" if chinese > 0.95 * len(unspaced) else "char"


def bleu_counter(references: Sequence[Sequence[str]], tokenize: str | None) -> RowScorer:
    """Scores a row as sacrebleu's ten counts, in the order of BLEU_COLUMNS: they add up."""
    from sacrebleu.metrics import BLEU

    # effective_order changes a sentence's score, not its counts; without it sacrebleu warns
    tokenizer = tokenize or bleu_tokenizer(references)
    metric = BLEU(tokenize=tokenizer, effective_order=True, force=True)

    def count(prediction: str, wanted: Sequence[str]) -> list[int]:
        score = metric.sentence_score(prediction, wanted)
        return [score.sys_len, score.ref_len, *score.counts, *score.totals]

    return count


def bleu(counts: Sequence[float]) -> float:
    """Corpus BLEU, 0..100, of the summed counts of the rows, in the order of BLEU_COLUMNS."""
    from sacrebleu.metrics import BLEU

    whole = [round(n) for n in counts]
    lengths, correct, total = whole[:2], whole[2:6], whole[6:]
    return BLEU.compute_bleu(correct, total, *lengths, smooth_method="exp").score


def bleu_signature(references: Sequence[Sequence[str]], tokenize: str) -> str:
    """What sacrebleu prints beside a score, so that others can compute the same."""
    import sacrebleu

    many = {len(row) for row in references}
    counted = str(many.pop()) if len(many) == 1 else "var"
    version = sacrebleu.__version__
    return f"nrefs:{counted}|case:mixed|eff:no|tok:{tokenize}|smooth:exp|version:{version}"


# --- the table --------------------------------------------------------------------------------

Columns = Mapping[str, Sequence[float]]  # {column: one number a row, or one sum a resample}
RowScorer = Callable[[str, Sequence[str]], Sequence[float]]  # (prediction, references) -> columns

LOSS_COLUMNS = ("loss_total", "loss_tokens")
BLEU_COLUMNS = (
    "bleu_predicted_length", "bleu_reference_length",
    *(f"bleu_correct_{n}" for n in range(1, 5)), *(f"bleu_total_{n}" for n in range(1, 5)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Metric:
    """One measure of answers.

    `columns` are the numbers of a row; their sums over any choice of rows are all that `value`
    needs. `scorer(references, BLEU tokenizer)` gives the function that computes them for a row;
    None: they come from the model. `row(columns, i)` is the score of row i alone; None: single
    rows have none. `rank`: its place among the metrics that decide which version is best.
    """

    name: str  # the key in report.json and card.json
    label: str
    unit: str  # its range in words
    columns: tuple[str, ...]
    value: Callable[[Columns, float], Sequence[float]]  # (sums, rows) -> one value a sum
    row: Callable[[Columns, int], float | None] | None
    scorer: Callable[[Sequence[Sequence[str]], str | None], RowScorer] | None
    rank: int | None
    higher_is_better: bool = True
    highest: float = 1.0  # the range begins at 0
    digits: int = 4
    aliases: tuple[str, ...] = ()  # other keys that mean it in files of other programs

    def text(self, value: float | None) -> str:
        """A value with the digits that reports print; '-' where it is not known."""
        return "-" if value is None else f"{value:.{self.digits}f}"


def _mean(
    name: str, label: str, rank: int,
    scorer: Callable[[Sequence[Sequence[str]], str | None], RowScorer],
) -> Metric:  # fmt: skip
    """A metric of 0 to 1 whose value is the mean of its rows' scores."""
    return Metric(
        name, label, "0 to 1", (name,), lambda sums, rows: [n / rows for n in sums[name]],
        lambda columns, i: columns[name][i], scorer, rank,
    )  # fmt: skip


def _best_reference(score: Callable[[str, str], float]):
    """The scorer that compares with each reference and takes the best score.

    An empty reference counts only where there is no other, as in SQuAD 2.0.
    """

    def score_row(prediction: str, wanted: Sequence[str]) -> list[float]:
        texts = [text for text in wanted if text.strip()] or [""]
        return [max(score(prediction, text) for text in texts)]

    return lambda references, tokenize: score_row


def _rouge(references: Sequence[Sequence[str]], tokenize: str | None) -> RowScorer:
    scorers = rouge_scorers()
    return lambda prediction, wanted: [max(rouge_l(prediction, w, scorers) for w in wanted)]


def _bleu(sums: Columns, rows: float) -> list[float]:
    return [bleu(counts) for counts in zip(*(sums[c] for c in BLEU_COLUMNS), strict=True)]


def _loss(sums: Columns, rows: float) -> list[float]:
    """Mean loss of a token; NaN for rows without a supervised token."""
    pairs = zip(*(sums[column] for column in LOSS_COLUMNS), strict=True)
    return [total / tokens if tokens > 0 else math.nan for total, tokens in pairs]


def _row_loss(columns: Columns, i: int) -> float | None:
    total, tokens = (columns[column][i] for column in LOSS_COLUMNS)
    return total / tokens if tokens else None


METRICS = (
    _mean("exact_match", "Exact match", 2, _best_reference(exact_match)),
    _mean("f1", "F1", 0, _best_reference(f1)),
    _mean("rouge_l", "ROUGE-L", 1, _rouge),
    Metric("bleu", "BLEU", "0 to 100", BLEU_COLUMNS, _bleu, None,
           bleu_counter, 3, highest=100.0, digits=2),
    Metric("loss", "Loss", "nats per token, lower is better", LOSS_COLUMNS,
           _loss, _row_loss, None, None, higher_is_better=False, highest=math.inf,
           aliases=("eval_loss",)),
)  # fmt: skip
BY_NAME = {key: metric for metric in METRICS for key in (metric.name, *metric.aliases)}
RANKED = tuple(
    m.name for m in sorted((m for m in METRICS if m.rank is not None), key=lambda m: m.rank or 0)
)  # the first one that two evaluations share decides which is better
ROWS_RANKED = tuple(name for name in RANKED if BY_NAME[name].row)  # the same for single rows


def label(name: str) -> str:
    """The name that people read; the key itself for an unknown metric."""
    return BY_NAME[name].label if name in BY_NAME else name


def text(name: str, value: float | None) -> str:
    """A value with its metric's digits; four for an unknown metric."""
    return BY_NAME.get(name, METRICS[0]).text(value)


def higher_is_better(name: str) -> bool:
    """The direction of a metric; up for one that this table does not know."""
    return name not in BY_NAME or BY_NAME[name].higher_is_better


def merit(name: str, value: float) -> float:
    """A number that is higher for a better value, whatever the metric's direction."""
    return value if higher_is_better(name) else -value


def worse(name: str, value: float, than: float) -> bool:
    """Whether `value` is worse than `than` in the metric's direction."""
    return merit(name, value) < merit(name, than)


def ranges() -> str:
    """'Exact match, F1, ROUGE-L: 0 to 1; BLEU: 0 to 100; …' for captions."""
    labels: dict[str, list[str]] = {}
    for metric in METRICS:
        labels.setdefault(metric.unit, []).append(metric.label)
    return "; ".join(f"{', '.join(names)}: {unit}" for unit, names in labels.items())


# --- a whole column of answers ----------------------------------------------------------------


@dataclasses.dataclass
class Scores:
    """What each row of one model's answers contributes: {column of a Metric: one number a row}."""

    columns: dict[str, list[float]]
    unicode_rows: int = 0  # rows whose references were compared by the Unicode rules

    @property
    def metrics(self) -> list[Metric]:
        """The metrics whose columns are there."""
        return [m for m in METRICS if all(column in self.columns for column in m.columns)]

    def row(self, i: int) -> dict[str, float]:
        """{metric: the score of row i} of every metric that scores single rows."""
        scored = {m.name: m.row(self.columns, i) for m in self.metrics if m.row}
        return {name: value for name, value in scored.items() if value is not None}


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: str | None = None,
    advance: Callable[[], Any] = lambda: None,
) -> Scores:
    """Score each prediction against its references; with several, the best of them counts.

    `tokenize`: sacrebleu's tokenizer, None: as `bleu_tokenizer` says. `advance` is called per row.
    """
    scorers = [(m, m.scorer(references, tokenize)) for m in METRICS if m.scorer]
    result = Scores({column: [] for metric, _ in scorers for column in metric.columns})
    for prediction, wanted in zip(predictions, references, strict=True):
        for metric, score_row in scorers:
            for column, value in zip(metric.columns, score_row(prediction, wanted), strict=True):
                result.columns[column].append(value)
        result.unicode_rows += any(map(needs_unicode, wanted))
        advance()
    return result


def cell(name: str, value: dict[str, float | None] | None, sign: bool = False) -> str:
    """'0.3002 [0.2432, 0.3636]', with a plus where `sign` is wanted; '-' for what is missing."""
    if value is None or value["value"] is None:
        return "-"
    plus = "+" if sign and value["value"] >= 0 else ""
    middle, low, high = (text(name, value[key]) for key in ("value", "low", "high"))
    return f"{plus}{middle} [{low}, {high}]"
