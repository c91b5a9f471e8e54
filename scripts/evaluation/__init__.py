"""Evaluation: scores of texts, batched generation, reports. Used by scripts/eval.py."""
