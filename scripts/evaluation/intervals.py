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


def summarise(
    columns: Sequence[metrics.Scores], settings: Settings
) -> tuple[list[dict[str, Interval]], dict[str, Interval]]:
    """({metric: {value, low, high}} of each column, and of the difference first - second).

    All columns are of the same rows. The difference is empty for a single column. Its interval is
    paired: a resample takes the same rows of both, so it is narrower than the two look apart.
    """
    import numpy as np

    tables = [_arrays(scores) for scores in columns]
    rows = len(next(iter(columns[0].columns.values())))
    values = [_measure(table, np.ones((1, rows))) for table in tables]
    drawn: list[dict[str, list]] = [{name: [] for name in value} for value in values]
    generator = np.random.default_rng(settings.seed)
    for start in range(0, settings.samples, CHUNK):
        many = min(CHUNK, settings.samples - start)
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=many).astype(float)
        for table, into in zip(tables, drawn, strict=True):
            for name, value in _measure(table, weights).items():
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


def _arrays(scores: metrics.Scores):
    """[(metric, {column: float array [rows]})] of every metric that was measured."""
    import numpy as np

    return [
        (metric, {column: np.array(scores.columns[column], float) for column in metric.columns})
        for metric in scores.metrics
    ]


def _measure(table, weights) -> dict[str, Sequence[float]]:
    """{metric: one value for each line of `weights` [resamples, rows]}; NaN: not known."""
    rows = weights.shape[1]
    return {
        metric.name: metric.value({c: weights @ v for c, v in columns.items()}, rows)
        for metric, columns in table
    }


def _interval(value: float, drawn, settings: Settings) -> Interval:
    import numpy as np

    tail = (1 - settings.confidence) / 2 * 100
    known = [n for n in drawn if not math.isnan(n)]
    low, high = np.percentile(known, [tail, 100 - tail]) if known else (math.nan, math.nan)
    bounds = {"value": value, "low": low, "high": high}
    return {name: None if math.isnan(n) else float(n) for name, n in bounds.items()}
