"""Rows to token ids with a loss mask, by the model's own chat template.

The mask does not need {% generation %} in the template: an assistant turn's text is what the
template adds when the turn is appended to the conversation before it. Where a template rewrites
earlier turns (Mistral's moves the tools to the last question), each assistant turn becomes a
sample of its own, as the model will see it; one that fits neither way is refused with its line.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base_model import rendered_rows
from base_model.chat_template import render
from base_model.template_refusals import TemplateRefusals
from base_model.tokenizer import control_tokens
from corpus import formats
from corpus.row_files import RowFile
from corpus.rows import Message, Row
from kit import console

IGNORED = -100  # the label of a token without loss, as in torch's cross entropy


@dataclasses.dataclass
class EncodedRows:
    """One file's rows, ready for the trainer, and what was counted on the way."""

    rows: list[dict[str, list[int]]]  # {"input_ids": [n], "labels": [n]}, n <= max_length
    lines: list[int] = dataclasses.field(default_factory=list)  # of the file, one for each of rows
    read: int = 0
    split: int = 0  # rows that became one sample an assistant turn
    cut: int = 0  # longer than max_length, kept to that length
    unsupervised: int = 0  # dropped: no token with loss within max_length
    unterminated: int = 0  # the last trained token is not an end token
    unused: Counter[str] = dataclasses.field(default_factory=Counter)  # keys that no row uses
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # not to be learned
    faults: Counter[str] = dataclasses.field(default_factory=Counter)  # of the template
    control: Counter[str] = dataclasses.field(default_factory=Counter)  # tokens in texts, by rows

    @property
    def tokens(self) -> int:
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def supervised(self) -> int:
        return sum(label != IGNORED for row in self.rows for label in row["labels"])


def conversation(row: Row | dict[str, Any]) -> tuple[list[Message], list[dict] | None]:
    """(messages, tools) of a row, or of a record in any form that corpus/formats.py reads."""
    if isinstance(row, dict):
        (row,) = formats.rows_of(row)
    return row.messages, row.tools


def unmarked(messages: list[Message]) -> list[Message]:
    """The messages as a template sees them, without the mark `weight` of the loss."""
    return [{key: m[key] for key in m if key != "weight"} for m in messages]


def spans(tokenizer, messages, tools=None) -> tuple[str, list[tuple[int, int]]]:
    """The whole text, and (start, end) of the characters of each assistant turn with its end token.

    Raises ValueError where the template does not only append.
    """
    text = render(tokenizer, messages, tools)
    turns = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:i], tools, prompt=True)
        after = text if i == len(messages) - 1 else render(tokenizer, messages[: i + 1], tools)
        if not (text.startswith(after) and after.startswith(before)):
            raise rendered_rows.mismatch(before, message)
        turns.append((len(before), len(after)))
    return text, turns


def encode(
    tokenizer, row, max_length: int, assistant_only: bool = True, faults: set[str] | None = None
) -> dict[str, list[int]]:
    """{"input_ids", "labels"} of one row, not yet cut; labels are IGNORED outside the loss.

    A turn with `weight: 0` is outside the loss, whether the others' turns are trained or not.
    faults: gets what the template leaves out of the row or writes twice.
    """
    messages, tools = conversation(row)
    text, turns = spans(tokenizer, unmarked(messages), tools)
    weights = [m.get("weight", 1) for m in messages if m["role"] == "assistant"]
    if faults is not None:
        faults.update(rendered_rows.faults(text, messages, tools))
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    labels = [IGNORED] * len(ids) if assistant_only else list(ids)
    position = 0
    for (start, end), weight in zip(turns, weights, strict=True):
        for i in range(position, len(ids)):
            left, right = offsets[i]
            if left >= end:
                position = i
                break
            if left >= start and right > left:
                labels[i] = ids[i] if weight else IGNORED
    return {"input_ids": ids, "labels": labels}


def encode_turns(
    tokenizer, row, max_length: int, assistant_only: bool = True, faults: set[str] | None = None
) -> list[dict]:
    """The row as samples: one where the template only appends, else one an assistant turn."""
    try:
        return [encode(tokenizer, row, max_length, assistant_only, faults)]
    except ValueError:
        messages, tools = conversation(row)
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if len(turns) < 2:
            raise
    learned = [i for i in turns if messages[i].get("weight") != 0]
    return [encode_last(tokenizer, unmarked(messages[: i + 1]), tools, faults) for i in learned]


def encode_last(
    tokenizer, messages, tools=None, faults: set[str] | None = None
) -> dict[str, list[int]]:
    """{"input_ids", "labels"} of a conversation of which the last turn alone is trained."""
    before = render(tokenizer, messages[:-1], tools, prompt=True)
    text = render(tokenizer, messages, tools)
    if not text.startswith(before):
        raise rendered_rows.mismatch(before, messages[-1])
    if faults is not None:
        faults.update(rendered_rows.faults(text, messages, tools, trained=len(messages) - 1))
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
    labels = [token if left >= len(before) else IGNORED for token, (left, _) in pairs]
    return {"input_ids": coded["input_ids"], "labels": labels}


def _ends(tokenizer) -> set[int]:
    """Ids that may end a turn: eos, and every special token of the template's end of turn."""
    ids = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return ids | {tokenizer.eos_token_id}


def encode_file(
    path: Path, tokenizer, max_length: int, assistant_only: bool = True, limit: int | None = None
) -> EncodedRows:
    """Encode a JSONL file of rows.

    Problem for rows that the template refuses: the first with file and line, and their number.
    """
    result = EncodedRows([])
    ends = _ends(tokenizer)
    control = control_tokens(tokenizer)
    rows, refusals = RowFile(path, limit), TemplateRefusals()
    for row in rows:
        result.control.update(control("\n".join(m["content"] for m in row.messages)))
        faults: set[str] = set()
        samples: list[dict[str, list[int]]] = []
        with refusals.collected(row.where, _way_out(tokenizer, row)):
            samples = encode_turns(tokenizer, row, max_length, assistant_only, faults)
        result.split += len(samples) > 1
        result.faults.update(faults)
        for coded in samples:
            if _count(result, coded, tokenizer, ends, max_length):
                result.lines.append(row.number)
    refusals.check(rows.read)
    result.read, result.unused, result.left_out = rows.read, rows.unused, rows.left_out
    return result


def _way_out(tokenizer, row: Row) -> Callable[[Exception], str]:
    """The remedy for an error of the template in this row."""

    def remedy(error: Exception) -> str:
        if isinstance(error, rendered_rows.Mismatch):
            return error.remedy
        messages, tools = conversation(row)
        return rendered_rows.way_out(tokenizer, unmarked(messages), tools, error)

    return remedy


def _count(result: EncodedRows, coded, tokenizer, ends: set[int], max_length: int) -> bool:
    """Cut one sample to `max_length`, and keep it if a token with loss is left (True)."""
    if len(coded["input_ids"]) > max_length:
        result.cut += 1
        coded = {name: ids[:max_length] for name, ids in coded.items()}
    else:
        trained = [label for label in coded["labels"] if label != IGNORED]
        tail = tokenizer.decode(trained[-1:]) if trained else ""
        if trained and trained[-1] not in ends and tail.strip():
            result.unterminated += 1
    if all(label == IGNORED for label in coded["labels"]):
        result.unsupervised += 1
        return False
    result.rows.append(coded)
    return True


def check(encoded: EncodedRows, path: Path, max_length: int) -> None:
    """Refuse data that would train nothing, or never learn to stop."""
    if encoded.read == 0:
        raise console.Problem(f"{path}: no rows", "make data writes it")
    if not encoded.rows:
        raise console.Problem(
            f"{path}: 0 supervised tokens in {encoded.read} rows: training would learn nothing",
            f"each row needs an assistant answer within max_length ({max_length} tokens)",
        )
    if encoded.unterminated and encoded.unterminated >= len(encoded.rows) - encoded.cut:
        raise console.Problem(
            f"{path}: no row's answer ends with an end-of-turn token: "
            f"the model would never learn to stop",
            "use a chat template that writes the end token after assistant turns",
        )
