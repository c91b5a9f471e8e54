"""The metadata of a merged file: the keys beside its vectors, its manifest, the warnings."""

from __future__ import annotations

import datetime
import math
from typing import Any

from embeddings.shard_rows import Statistics
from embeddings.shards import Shard

VERSION = "tandem-embeddings/1"
QUESTIONS = 10  # rows that follow the articles: the question embeddings of the evaluation


def about(shape: tuple[int, int], model: str, used: list[Shard], total: Statistics) -> dict:
    """The keys of the merged dict beside its vectors and articles."""
    return {
        "total_articles": shape[0],
        "embedding_dim": shape[1],
        "model": model,
        "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "shape": shape,
        "quality_metrics": total.metrics(),
        "chunk_info": [
            {"file": s.name, "start_index": s.start, "end_index": min(s.end, shape[0])} | s.about
            for s in used
        ],
    }


def manifest(about: dict[str, Any], total: Statistics, **facts: Any) -> dict[str, Any]:
    """The manifest beside the output, as JSON: null where no norm was finite."""
    metrics = about["quality_metrics"]
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    return {
        "format": VERSION,
        **facts,
        **about,
        "quality_metrics": finite,
        "rows_with_nan": {"count": total.nan, "first": total.nan_rows},
        "rows_with_inf": {"count": total.inf, "first": total.inf_rows},
        "rows_of_zeros": total.zeros,
    }


def row_warnings(total: Statistics) -> list[tuple[str, str]]:
    """(what, remedy) for rows that hold NaN, Inf or nothing but zeros."""
    warnings = []
    for what, count, first in (
        ("NaN", total.nan, total.nan_rows),
        ("Inf", total.inf, total.inf_rows),
    ):
        if count:
            shown = ", ".join(map(str, first[:10])) + (" ..." if count > 10 else "")
            warnings.append((f"{count} rows hold {what}: {shown}", "embed these items again"))
    if total.zeros:
        warnings.append((f"{total.zeros} rows are all zero", "embed these items again"))
    return warnings


def input_warnings(
    articles: str, articles_total: int, items: int, left_out: int, used: list[Shard], listed: dict
) -> list[tuple[str, str]]:
    """(what, remedy) for articles and shards that do not fit the options."""
    warnings = []
    if left_out not in (0, QUESTIONS):
        text = f"{left_out} rows after item {items} are left out, not {QUESTIONS}"
        warnings.append((text, "say --items if more articles were embedded"))
    if articles_total != items:
        text = f"{articles} holds {articles_total} articles; the first {items} are used"
        warnings.append((text, "say --items, or give the articles that were embedded"))
    unlisted = [s.name for s in used if s.name not in listed]
    if listed and unlisted:
        text = f"{len(unlisted)} shards have no SHA-256 from their producer: {unlisted[0]} ..."
        warnings.append((text, "run write_manifest.py on their cluster, and fetch again"))
    if used[0].model is None:
        warnings.append(("the shards name no model", "write 'model' into each shard"))
    return warnings
