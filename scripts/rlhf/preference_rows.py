"""Encodes preference rows as token ids and prompts. Bad rows: a line each, then their count.

Reads what data_prep.py reads: prompt, chosen and rejected as texts or as messages, with or without
the prompt inside both answers. Where prompts are enough, rows with messages as well.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model import chat_template, rendered_rows
from base_model.template_refusals import TemplateRefusals
from corpus.row_files import RowFile, sound_rows
from corpus.rows import BadRow, Row
from kit import console

KNOWN = "rows need prompt, chosen and rejected; make data writes such rows"


@dataclasses.dataclass
class EncodedPreferences:
    """Rows for a trainer, and what was counted on the way."""

    rows: list[dict[str, Any]]
    read: int = 0
    long_prompts: int = 0  # left out: a prompt of more than max_prompt_length tokens
    long_rows: int = 0  # reward: left out; DPO: cut at max_length

    @property
    def facts(self) -> dict[str, int]:
        """Counts for run.json and plans."""
        return {
            "rows": len(self.rows),
            "read": self.read,
            "long_prompts": self.long_prompts,
            "long_rows": self.long_rows,
        }


def read(path: Path, pairs: bool, limit: int | None = None) -> list[Row]:
    """The rows of a JSONL file; `pairs`: each must have a chosen and a rejected answer.

    Raises Problem that counts the bad rows, each named on stderr before.
    """
    if not path.is_file():
        raise console.Problem(f"{path}: no such data file", KNOWN)
    rows = list(RowFile(path, limit, functools.partial(_checked_rows, pairs=pairs)))
    if not rows:
        raise console.Problem(f"{path}: no rows", KNOWN)
    return rows


def _checked_rows(record: dict[str, Any], pairs: bool) -> list[Row]:
    rows = sound_rows(record)
    for row in rows:
        if row.rejected is None:
            if pairs:
                raise BadRow("no rejected answer", "the row has one answer, not two")
            row.prompt_turns = len(row.messages) - 1
        elif _compared(row.rejected) == _compared(row.chosen):
            raise BadRow("chosen equals rejected", "but for white space")
    return rows


def _compared(messages: list[dict[str, Any]]) -> list[tuple]:
    return [(m["role"], m["content"].strip(), str(m.get("tool_calls"))) for m in messages]


def prompt_of(row: Row) -> list[dict[str, Any]]:
    """The messages before the answer."""
    return row.messages[: row.prompt_turns]


def reference_of(row: Row) -> str:
    """The text of the chosen answer (its last turn)."""
    return row.messages[-1]["content"]


def _texts(tokenizer, row: Row) -> tuple[str, list[str]]:
    """(the prompt with the answer's opening, the answers) as the chat template writes them."""
    prompt = prompt_of(row)
    answers = [row.messages[row.prompt_turns :]]
    answers += [row.rejected] if row.rejected is not None else []
    before = chat_template.render(tokenizer, prompt, row.tools, prompt=True)
    whole = [chat_template.render(tokenizer, prompt + answer, row.tools) for answer in answers]
    if unlike := [a for a, text in zip(answers, whole, strict=True) if not text.startswith(before)]:
        raise rendered_rows.mismatch(before, unlike[0][0])
    return before, [text[len(before) :] for text in whole]


def _way_out(tokenizer, row: Row) -> Callable[[Exception], str]:
    """The remedy for an error of the template in this row."""

    def remedy(error: Exception) -> str:
        if isinstance(error, rendered_rows.Mismatch):
            return error.remedy
        return rendered_rows.way_out(tokenizer, row.messages, row.tools, error)

    return remedy


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_pairs(
    tokenizer, rows: list[Row], max_prompt_length: int, max_length: int, cut: bool
) -> EncodedPreferences:
    """{"prompt_ids", "chosen_ids", "rejected_ids"} of each row; answers without their prompt.

    cut: keep rows of more than `max_length` tokens (the trainer cuts them), else drop them.
    """
    result, refusals = EncodedPreferences([]), TemplateRefusals()
    for row in rows:
        result.read += 1
        texts = None
        with refusals.collected(row.where, _way_out(tokenizer, row)):
            texts = _texts(tokenizer, row)
        if texts is None:
            continue
        before, (chosen, rejected) = texts
        prompt = _ids(tokenizer, before)
        better, worse = _ids(tokenizer, chosen), _ids(tokenizer, rejected)
        if len(prompt) > max_prompt_length:
            result.long_prompts += 1
            continue
        if len(prompt) + max(len(better), len(worse)) > max_length:
            result.long_rows += 1
            if not cut:
                continue
        result.rows.append({"prompt_ids": prompt, "chosen_ids": better, "rejected_ids": worse})
    refusals.check(result.read)
    return result


def for_reward(encoded: EncodedPreferences) -> EncodedPreferences:
    """The rows as RewardTrainer takes them: each answer with its prompt before it."""
    whole = [
        {name: row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")}
        for row in encoded.rows
    ]
    return dataclasses.replace(encoded, rows=whole)


def encode_prompts(tokenizer, rows: list[Row], max_prompt_length: int) -> EncodedPreferences:
    """{"prompt" (text), "row" (place in `rows`), "input_ids"} of each row."""
    result = EncodedPreferences([])
    for place, row in enumerate(rows):
        result.read += 1
        try:
            text = chat_template.render(tokenizer, prompt_of(row), row.tools, prompt=True)
        except Exception as error:
            raise console.Problem(
                f"{row.where}: the chat template refuses the prompt ({str(error).strip()})",
                "correct or delete that row; python scripts/data_prep.py checks rows",
            ) from None
        ids = _ids(tokenizer, text)
        if len(ids) > max_prompt_length:
            result.long_prompts += 1
            continue
        text = once(tokenizer, text, ids)
        result.rows.append({"prompt": text, "row": place, "input_ids": ids})
    return result


def once(tokenizer, text: str, ids: list[int]) -> str:
    """`text` so that tokenising it with special tokens gives `ids`: no second begin-of-text."""
    start = tokenizer.bos_token or ""
    for candidate in (text, text.removeprefix(start)):
        if tokenizer(candidate)["input_ids"] == ids:
            return candidate
    raise console.Problem(
        "the tokenizer adds special tokens of its own to every prompt",
        "use a tokenizer whose chat template writes them, as Llama's and Mistral's do",
    )


def check(
    encoded: EncodedPreferences, path: Path, max_prompt_length: int, max_length: int | None
) -> None:
    """Refuse data of which nothing is left."""
    if encoded.rows:
        return
    limits = f"max_prompt_length {max_prompt_length}"
    limits += f", max_length {max_length}" if max_length else ""
    raise console.Problem(
        f"{path}: none of {encoded.read} rows is short enough ({limits})",
        "raise these limits in rlhf.yaml",
    )
