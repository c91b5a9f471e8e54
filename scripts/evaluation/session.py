"""One evaluation from rows to report: with a model, or of predictions that exist already."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paths
from evaluation import intervals, metrics, report, rows
from kit import console, jsonl, publish


@dataclasses.dataclass
class Column:
    """What one model (the adapter, or its base) said to the rows, and what it was worth."""

    predictions: list[str]
    scores: metrics.Scores
    losses: intervals.Losses | None = None


def predictions(args, settings) -> tuple[dict[str, Any], Path | None]:
    """(report, run folder) for rows that hold their prediction; no model, no torch."""
    examples = rows.read(args.predictions, settings.data.max_samples, True, True)
    column = _scored([example.prediction for example in examples], examples, settings)
    name = args.name or args.predictions.stem
    return _report(args, settings, examples, [column], name, {"model": None}), args.run


def model(args, settings) -> tuple[dict[str, Any], Path | None]:
    """(report, run folder) for --model on --dataset; an adapter is measured beside its base."""
    from evaluation import generate, targets
    from training import loading

    target = targets.resolve(args.model, args.base, settings)
    examples = rows.read(args.dataset, settings.data.max_samples, False,
                         settings.data.allow_placeholders)  # fmt: skip
    targets.check_base(target)
    if settings.rag.collection:
        from evaluation import rag

        rag.augment(examples, settings.rag)
    console.say(f"Loading {target.name} on {loading.device()}")
    tokenizer = targets.tokenizer(target)
    encoded = generate.prompts(tokenizer, examples)
    examples, encoded, left_out = _fitting(examples, encoded, settings.data.max_length)
    generate.fill_references(tokenizer, examples)
    columns = measure(target, tokenizer, examples, encoded, settings)
    facts = {
        "model": target.adapter or target.model.model_name_or_path,
        "base_model": target.model.model_name_or_path,
        "left_out": left_out,
        "quantization": target.quantization.model_dump(),
        "dtype": target.model.dtype,
        "device": loading.device(),
    }
    if args.save_predictions:
        save_predictions(args.save_predictions, examples, columns[0])
    body = _report(args, settings, examples, columns, args.name or target.name, facts)
    return body, args.run or target.run


def _fitting(examples, encoded, longest: int):
    """The rows whose prompt has at most `longest` tokens, and how many were left out."""
    fits = [len(ids) <= longest for ids in encoded]
    left_out = fits.count(False)
    if left_out == len(fits):
        raise console.Problem(
            f"every prompt has more than data.max_length ({longest}) tokens", "raise it"
        )
    if left_out:
        console.warn(f"{left_out} of {len(fits)} rows left out: their prompt has more than "
                     f"data.max_length ({longest}) tokens")  # fmt: skip
    return (
        [e for e, fit in zip(examples, fits, strict=True) if fit],
        [ids for ids, fit in zip(encoded, fits, strict=True) if fit],
        left_out,
    )


def measure(target, tokenizer, examples, encoded, settings) -> list[Column]:
    """[the model] or [the adapter, its base]: one load, the adapter switched off for the second."""
    from evaluation import generate
    from training import loading

    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded = loading.load_base(target.model, target.quantization)
    views = [("answers", contextlib.nullcontext)]
    if target.adapter:
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(loaded, str(target.adapter))
        views = [("adapter", contextlib.nullcontext), ("base", loaded.disable_adapter)]
    loaded.eval()
    coded = None
    if settings.metrics.loss:
        coded = generate.encode_losses(tokenizer, examples, settings.data.max_length)
    size, longest = settings.generation.batch_size, settings.generation.max_new_tokens
    columns = []
    for what, view in views:
        many = len(examples) * (2 if coded else 1)
        with view(), console.progress(many, what, "row") as bar:
            texts = generate.answers(loaded, tokenizer, encoded, size, longest, bar.update)
            losses = (
                generate.losses(loaded, tokenizer, coded, size, bar.update) if coded else None
            )
        columns.append(_scored(texts, examples, settings, losses))
    return columns


def _scored(texts: list[str], examples, settings, losses=None) -> Column:
    references = [example.references for example in examples]
    with console.progress(len(texts), "scores", "row") as bar:
        scores = metrics.score(texts, references, settings.metrics.bleu_tokenize, bar.update)
    return Column(texts, scores, losses)


def save_predictions(path: Path, examples: Sequence[rows.Example], column: Column) -> None:
    """Rows of prompt, prediction and references."""
    jsonl.write(
        path,
        (
            {"prompt": e.question, "prediction": text, "references": e.references}
            for e, text in zip(examples, column.predictions, strict=True)
        ),
    )


def _report(args, settings, examples, columns: list[Column], name: str, facts: dict[str, Any]):
    """The report of the measured columns: the contract of report.json."""
    from adapters import base

    resampling = intervals.Settings(
        settings.metrics.bootstrap_samples, settings.metrics.confidence, settings.metrics.seed
    )
    summaries, difference = intervals.summarise(
        [(column.scores, column.losses) for column in columns], resampling
    )
    references = [example.references for example in examples]
    tokenize = settings.metrics.bleu_tokenize or metrics.bleu_tokenizer(references)
    file = args.dataset or args.predictions
    named = {k: base.relative(str(facts.pop(k))) for k in ("model", "base_model") if facts.get(k)}
    return {
        "name": name,
        "model": named.get("model"),
        "base_model": named.get("base_model") if len(columns) > 1 else None,
        "dataset": {
            "path": paths.show(file),
            "sha256": publish.sha256(file),
            "rows": len(examples),
        },
        "metrics": summaries[0],
        "base": summaries[1] if len(columns) > 1 else None,
        "difference": difference or None,
        "regressions": report.regressions(examples, columns, settings.report.regressions),
        "samples": [
            report.row_facts(examples[i], columns, i)
            for i in range(min(settings.report.samples, len(examples)))
        ],
        "bleu_signature": metrics.bleu_signature(references, tokenize),
        "unicode_rows": columns[0].scores.unicode_rows,
        "created": report.now(),
        "settings": settings.model_dump(exclude={"model", "quantization"}) | facts,
    }
