"""Means over rows with bootstrap intervals; two models on the same rows are resampled together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from adapters import metrics

CHUNK = 50  # resamples at once: 50 x rows integers in memory
Interval = dict[str, float | None]  # value, low, high; None: nothing is known


@dataclasses.dataclass(frozen=True)
class Settings:
    """`samples` resamples of the rows, drawn with `seed`; intervals hold `confidence` of them."""

    samples: int = 1000
    confidence: float = 0.95
    seed: int = 42


@dataclasses.dataclass
class Losses:
    """Per row: the summed loss over its supervised tokens (nats), and how many these are."""

    total: list[float]
    tokens: list[int]


def summarise(
    columns: Sequence[tuple[metrics.Scores, Losses | None]], settings: Settings
) -> tuple[list[dict[str, Interval]], dict[str, Interval]]:
    """({metric: {value, low, high}} of each column, and of the difference first - second).

    All columns are of the same rows. The difference is empty for a single column. Its interval is
    paired: a resample takes the same rows of both, so it is narrower than the two look apart.
    """
    import numpy as np

    tables = [_table(scores, losses) for scores, losses in columns]
    rows = len(tables[0])
    values = [_measure(table.sum(0, keepdims=True), rows) for table in tables]
    drawn: list[dict[str, list]] = [{name: [] for name in value} for value in values]
    generator = np.random.default_rng(settings.seed)
    for start in range(0, settings.samples, CHUNK):
        many = min(CHUNK, settings.samples - start)
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=many).astype(float)
        for table, into in zip(tables, drawn, strict=True):
            for name, value in _measure(weights @ table, rows).items():
                into[name].extend(value)
    summaries = [
        {name: _interval(value[name][0], into[name], settings) for name in value}
        for value, into in zip(values, drawn, strict=True)
    ]
    difference = {}
    if len(columns) == 2:
        for name in (n for n in values[0] if n in values[1]):
            gaps = np.subtract(drawn[0][name], drawn[1][name])
            difference[name] = _interval(values[0][name][0] - values[1][name][0], gaps, settings)
    return summaries, difference


def _table(scores: metrics.Scores, losses: Losses | None):
    """[rows, 13 or 15] floats whose weighted column sums are all that every measure needs."""
    import numpy as np

    columns = [scores.exact_match, scores.f1, scores.rouge_l, *zip(*scores.bleu, strict=True)]
    if losses:
        columns += [losses.total, losses.tokens]
    return np.array(columns, dtype=float).T


def _measure(sums, rows: int) -> dict[str, list[float]]:
    """{metric: one value for each line of `sums` [resamples, 13 or 15]}; NaN: not known.

    Rows without a supervised token may make up a whole resample: that one has no loss.
    """
    import numpy as np

    result = {
        "exact_match": list(sums[:, 0] / rows),
        "f1": list(sums[:, 1] / rows),
        "rouge_l": list(sums[:, 2] / rows),
        "bleu": [metrics.bleu(line.round()) for line in sums[:, 3:13]],
    }
    if sums.shape[1] > 13:
        total, tokens = sums[:, 13], sums[:, 14]
        result["loss"] = list(
            np.divide(total, tokens, out=np.full(len(sums), np.nan), where=tokens > 0)
        )
    return result


def _interval(value: float, drawn, settings: Settings) -> Interval:
    import numpy as np

    tail = (1 - settings.confidence) / 2 * 100
    known = [n for n in drawn if not math.isnan(n)]
    low, high = np.percentile(known, [tail, 100 - tail]) if known else (math.nan, math.nan)
    found = {"value": value, "low": low, "high": high}
    return {name: None if math.isnan(n) else float(n) for name, n in found.items()}
