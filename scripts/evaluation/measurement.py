"""One evaluation from rows to report: with a model, or of predictions that exist already."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters import metrics
from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from evaluation import example_rows, intervals, score_report
from kit import clock, console, jsonl, paths, publish


@dataclasses.dataclass
class Column:
    """One model's answers to the rows (the adapter's, or its base's) and their scores."""

    predictions: list[str]
    scores: metrics.Scores


def predictions(args, settings) -> tuple[dict[str, Any], Path | None]:
    """(report, run folder) for rows with their prediction; no model, no torch."""
    examples = example_rows.read(args.predictions, settings.data.max_samples, True, True)
    column = _scored([example.prediction for example in examples], examples, settings)
    name = args.name or args.predictions.stem
    return _report(args, settings, examples, [column], name, {"model": None}), args.run


def model(args, settings) -> tuple[dict[str, Any], Path | None]:
    """(report, run folder) for --model on --dataset; an adapter is measured with its base."""
    from base_model import library_exit, loading, readiness
    from evaluation import generate, targets

    target = targets.resolve(args.model, args.base, settings)
    examples = example_rows.read(
        args.dataset, settings.data.max_samples, False, settings.data.allow_placeholders
    )
    targets.check_base(target)
    retrieval = None
    if settings.rag.collection:
        from evaluation import rag

        retrieval = rag.augment(examples, settings.rag.collection, settings.rag.top_k)
    console.say(f"Loading {target.name} on {loading.device()}")
    tokenizer = targets.tokenizer(target)
    readiness.warn(tokenizer, Path(target.model.model_name_or_path))
    read = len(examples)
    examples = _fitting(tokenizer, examples, settings.data.max_length)
    generate.fill_references(tokenizer, examples)
    try:
        with library_exit.handled(_ended_by_library):
            columns = measure(target, tokenizer, examples, settings)
    except (RuntimeError, MemoryError, OSError) as error:
        raise _gpu_problem(error, target) from None
    facts = {
        "model": target.adapter or target.model.model_name_or_path,
        "base_model": (target.compared_base or target.model).model_name_or_path,
        "left_out": read - len(examples),
        "retrieval": retrieval,
        "quantization": target.quantization.model_dump(),
        "dtype": target.model.dtype,
        "device": loading.device(),
    }
    if args.save_predictions:
        save_predictions(args.save_predictions, examples, columns[0])
    body = _report(args, settings, examples, columns, args.name or target.name, facts)
    return body, args.run or target.run


def _fitting(tokenizer, examples, longest: int) -> list[example_rows.Example]:
    """The rows whose prompt has at most `longest` tokens; the others are counted in a warning."""
    from evaluation import generate

    encoded = generate.prompts(tokenizer, examples)
    kept = [e for e, ids in zip(examples, encoded, strict=True) if len(ids) <= longest]
    long = f"prompt of more than data.max_length ({longest}) tokens"
    if not kept:
        raise console.Problem(f"every row has a {long}", "raise it in the configuration")
    if len(kept) < len(examples):
        console.warn(f"{len(examples) - len(kept)} of {len(examples)} rows left out: a {long}")
    return kept


def _gpu_problem(error: Exception, target) -> Exception:
    """The Problem for a lost GPU or a model that does not fit; any other error stays itself."""
    if gpu_is_lost(error):
        return lost_gpu(error)
    if not memory_is_full(error):
        return error
    return console.Problem(
        f"out of GPU memory while loading {target.model.model_name_or_path}",
        "free the GPU (nvidia-smi names its processes), or load it in 4 bits (QLoRA)",
    )


def _ended_by_library(error) -> None:
    """Print why this process ends although no Python code can go on."""
    from base_model import library_exit
    from training import gpu_memory

    if gpu_is_lost(error):
        library_exit.print_problem(lost_gpu(error))
    elif memory_is_full(error):
        smaller = ["--batch-size", "--max-new-tokens", "the base's size, with load_in_4bit: true"]
        library_exit.print_problem(gpu_memory.out_of_memory(None, smaller))
    else:
        library_exit.print_problem(library_exit.unknown(error))


def measure(target, tokenizer, examples, settings) -> list[Column]:
    """[the model], or [the model, its base]."""
    from base_model import loading
    from evaluation import targets

    _quiet()
    if target.adapter:
        return _adapter_and_base(target, tokenizer, examples, settings)
    model = loading.load_base(target.model, target.quantization)
    columns = [_column("model", model, tokenizer, examples, settings)]
    if target.compared_base:
        del model
        _free_memory()
        model = loading.load_base(target.compared_base, target.quantization)
        tokenizer = targets.tokenizer(
            targets.Target("base", target.compared_base, target.quantization)
        )
        columns.append(_column("base", model, tokenizer, examples, settings))
    return columns


def _adapter_and_base(target, tokenizer, examples, settings) -> list[Column]:
    """The columns of an adapter and of its untouched base.

    The base is loaded once, and the adapter is switched off for the second column. Where that would
    leave another model (PiSSA, trained biases, a resized embedding), the base is loaded again.
    """
    from adapters import effect
    from base_model import loading

    model = loading.load_base(target.model, target.quantization)
    adapter = effect.of(target.adapter)
    base_rows = model.get_input_embeddings().weight.shape[0]
    resized = effect.fit_embedding(model, [(adapter, target.adapter, tokenizer)])
    model = loading.attach(model, target.adapter)
    columns = [_column("adapter", model, tokenizer, examples, settings)]
    if not adapter.base_changes and not resized:
        with model.disable_adapter():
            return [*columns, _column("base", model, tokenizer, examples, settings)]
    del model
    _free_memory()
    what = ", ".join(adapter.base_changes) or "its tokenizer has more tokens"
    console.say(f"Loading the base apart: the adapter changes it ({what})")
    model = loading.load_base(target.model, target.quantization)
    if len(tokenizer) > base_rows:  # the base knows no ids beyond its own embedding
        tokenizer = _base_tokenizer(target, tokenizer)
    return [*columns, _column("base", model, tokenizer, examples, settings)]


def _base_tokenizer(target, tokenizer):
    """The base's own tokenizer, with the chat template of the adapter's."""
    from base_model import locate
    from base_model import tokenizer as tokenizers

    folder = locate.require(target.model.model_name_or_path, target.model.model_revision)
    own = tokenizers.load(folder)
    own.chat_template = tokenizer.chat_template
    if own.pad_token is None:
        own.pad_token = own.eos_token
    return own


def _free_memory() -> None:
    """Give back what a deleted model held, before the next is loaded."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _quiet() -> None:
    """No progress bars and hints of the libraries between the kit's own lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _column(what: str, loaded, tokenizer, examples, settings) -> Column:
    """Answers, losses where they are wanted, and scores of one model."""
    from evaluation import generate

    size, losses, coded = settings.generation.batch_size, {}, []
    if settings.metrics.loss:
        coded = generate.encode_losses(tokenizer, examples, settings.data.max_length)
    many = len(examples) + sum(map(len, coded))  # a row may be several samples
    loaded.eval()
    with console.progress(many, what, "row") as bar:
        encoded = generate.prompts(tokenizer, examples)
        longest = settings.generation.max_new_tokens
        texts = generate.answers(loaded, tokenizer, encoded, size, longest, bar.update)
        if coded:
            losses = generate.losses(loaded, tokenizer, coded, size, bar.update)
            losses = checked_losses(losses, what)
    return _scored(texts, examples, settings, losses)


def checked_losses(losses: dict[str, list[float]], what: str) -> dict[str, list[float]]:
    """The loss columns; {} where no token bears a loss. Problem where one is NaN or infinite."""
    totals, tokens = (losses[column] for column in metrics.LOSS_COLUMNS)
    bad = sum(not math.isfinite(total) for total in totals)
    if bad:
        raise console.Problem(
            f"the loss of the {what} is not a number for {bad} of {len(totals)} rows",
            "its training diverged (look at metrics.jsonl), or its base needs bfloat16",
        )
    if not any(tokens):
        console.warn("no loss: no answer begins within data.max_length")
        return {}
    return losses


def _scored(texts: list[str], examples, settings, losses=None) -> Column:
    references = [example.references for example in examples]
    with console.progress(len(texts), "scores", "row") as bar:
        scores = metrics.score(texts, references, settings.metrics.bleu_tokenize, bar.update)
    scores.columns |= losses or {}
    return Column(texts, scores)


def save_predictions(path: Path, examples: Sequence[example_rows.Example], column: Column) -> None:
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
    from base_model import locate

    resampling = intervals.Settings(
        settings.metrics.bootstrap_samples, settings.metrics.confidence, settings.metrics.seed
    )
    summaries, difference = intervals.summarise([c.scores for c in columns], resampling)
    references = [example.references for example in examples]
    tokenize = settings.metrics.bleu_tokenize or metrics.bleu_tokenizer(references)
    file = args.dataset or args.predictions
    named = {k: locate.relative(str(facts.pop(k))) for k in ("model", "base_model") if facts.get(k)}
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
        "regressions": score_report.regressions(examples, columns, settings.report.regressions),
        "samples": [
            score_report.row_facts(examples[i], columns, i)
            for i in range(min(settings.report.samples, len(examples)))
        ],
        "generation": {  # with the dataset's SHA-256: what makes two evaluations comparable
            "max_new_tokens": settings.generation.max_new_tokens,
            "max_length": settings.data.max_length,
            "rows": len(examples),
        },
        "rag": settings.rag.model_dump() if settings.rag.collection else None,
        "bleu_signature": metrics.bleu_signature(references, tokenize),
        "unicode_rows": columns[0].scores.unicode_rows,
        "created": clock.name_stamp(),
        "settings": settings.model_dump(exclude={"model", "quantization"}) | facts,
    }
