"""Scores of drawn texts: what holds for every answer and reference."""

from __future__ import annotations

import pytest

from adapters import metrics

hypothesis = pytest.importorskip("hypothesis", reason="drawn texts need .venv-local")
TEXTS = hypothesis.strategies.text("aAthen .,+é猫", max_size=8)


@hypothesis.given(TEXTS, TEXTS)
def test_equal_answers_score_one_and_f1_is_never_below_exact_match(prediction, reference):
    assert metrics.exact_match(reference, reference) == metrics.f1(reference, reference) == 1
    assert metrics.f1(prediction, reference) >= metrics.exact_match(prediction, reference)
