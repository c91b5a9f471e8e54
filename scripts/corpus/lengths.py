"""How many tokens each row has, with the configured tokenizer and chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from base_model import chat_template, tokenizer
from corpus.rows import Row
from kit import console

_WIDE = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


def settings(config) -> tuple[str, int, str | None]:
    """(tokenizer, max_length, chat template file): `length`, else training_config.yaml."""
    from config import loader

    training = loader.load("training_config.yaml")
    return (
        config.tokenizer or training.model.model_name_or_path,
        config.max_length or training.training.max_length,
        training.model.chat_template,
    )


def load_tokenizer(name: str, template: str | None) -> Any | None:
    """The tokenizer of a base model, or None where there is none on this machine.

    Raises Problem where it has no chat template: it could not render a conversation.
    """
    folder = tokenizer.folder_of(name)
    return tokenizer.with_template(folder, template) if folder else None


def count(rows: Sequence[Row], tokenizer: Any | None) -> tuple[list[int | str], str]:
    """(per row: its tokens, or the template's complaint as text; how they were counted)."""
    if tokenizer is None:
        return [_estimate(row) for row in rows], "estimate: the tokenizer is not on this machine"
    try:
        import jinja2
    except ModuleNotFoundError:
        return [_estimate(row) for row in rows], "estimate: the package jinja2 is missing"
    texts: list[str | None] = []
    results: list[int | str] = [0] * len(rows)
    for i, row in enumerate(rows):
        try:
            texts.append(chat_template.render(tokenizer, row.messages, row.tools))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            results[i] = console.first_line(error)
            texts.append(None)
    for start in range(0, len(rows), 1000):
        places = [i for i in range(start, min(start + 1000, len(rows))) if texts[i] is not None]
        if places:
            ids = tokenizer([texts[i] for i in places], add_special_tokens=False)["input_ids"]
            for i, tokens in zip(places, ids, strict=True):
                results[i] = len(tokens)
    return results, "chat template and tokenizer"


def _estimate(row: Row) -> int:
    """A token for each wide character, else for each 4; 8 a message for the template's marks."""
    text = "\n".join(m["content"] + str(m.get("tool_calls", "")) for m in row.messages)
    text += str(row.tools or "")
    wide = len(_WIDE.findall(text))
    return wide + (len(text) - wide) // 4 + 8 * len(row.messages)


def summary(lengths: Sequence[int], max_length: int) -> dict[str, Any]:
    """Quantiles, total and how many rows the trainer would cut."""
    if not lengths:
        return {"max_length": max_length, "rows": 0}
    ordered = sorted(lengths)

    def quantile(q: float) -> int:
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    return {
        "max_length": max_length,
        "rows": len(ordered),
        "total_tokens": sum(ordered),
        "median": quantile(0.5),
        "p95": quantile(0.95),
        "longest": ordered[-1],
        "longer_than_max_length": sum(n > max_length for n in ordered),
    }
