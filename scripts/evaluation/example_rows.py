"""Rows as evaluation needs them: the turns before the answer, the answers that count as right.

Read and judged as training reads them (corpus/row_files.py). Rows with predictions have a form of
their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from corpus import answers, formats, judge
from corpus.fields import Fields
from corpus.row_files import RowFile
from corpus.rows import NO_ANSWER, BadRow, Row
from kit import console

REFERENCES = ("references", "reference", "answers", "answer", "completion")  # of predictions


@dataclasses.dataclass
class Example:
    """One row: the turns before the answer, the answers that count as right, its line's number.

    `references` is empty where the answer is a tool call: its text is the chat template's matter.
    """

    number: int
    prompt: list[dict[str, Any]]
    answer: dict[str, Any]
    references: list[str]
    tools: list[dict[str, Any]] | None = None
    prediction: str = ""
    where: str = ""  # file:line
    source: str = ""  # file
    unused: list[str] = dataclasses.field(default_factory=list)  # keys of the record

    @property
    def question(self) -> str:
        """The last user turn's text."""
        users = (m["content"] for m in reversed(self.prompt) if m["role"] == "user")
        return next((text for text in users if isinstance(text, str)), "")

    @property
    def conversation(self) -> Row:
        """The whole row as training reads it."""
        return Row([*self.prompt, self.answer], self.tools)


def read(path: Path, limit: int | None, predictions: bool, placeholders: bool) -> list[Example]:
    """The rows of a JSONL file. Every bad row is one line on stderr, then a Problem counts them.

    `limit`: rows to read, None for all. `predictions`: rows must hold one. `placeholders`: accept
    an unfilled {{name}}.
    """

    def convert(record: dict[str, Any]) -> list[Example]:
        return [_predicted(record)] if predictions else _examples(record, placeholders)

    examples = list(RowFile(path, limit, convert))
    for example in examples:
        example.where = f"{example.source}:{example.number}"
    if not examples:
        raise console.Problem(f"{path}: no rows", "give a JSONL file with rows")
    return examples


def _examples(record: dict[str, Any], placeholders: bool) -> list[Example]:
    """The examples of a record by the rules of training."""
    rows = formats.rows_of(record)
    for row in rows:
        try:
            judge.validate(_with_an_answer(row))
        except BadRow as bad:
            if not (placeholders and bad.reason == "unfilled template"):
                raise
    return [_example(row) for row in rows]


def _with_an_answer(row: Row) -> Row:
    """The row to be judged: to a question without an answer, saying nothing is right."""
    if row.references != NO_ANSWER:
        return row
    answer = row.messages[-1] | {"content": "nothing"}
    return dataclasses.replace(row, messages=[*row.messages[:-1], answer], references=None)


def _example(row: Row) -> Example:
    """The last answer that is to be learned, with the turns before it: one that is marked with
    `weight: 0` is a mistake, and no reference."""
    learned = [i for i, m in enumerate(row.messages)
               if m["role"] == "assistant" and m.get("weight") != 0]  # fmt: skip
    last = learned[-1] if learned else -1
    answer = row.messages[last]
    references = [] if answer.get("tool_calls") else row.references or [answer["content"]]
    example = Example(0, row.messages[:last], answer, references, row.tools)
    example.unused = row.unused
    return example


def _predicted(record: dict[str, Any]) -> Example:
    """A question, or none, with a prediction and its references."""
    fields = Fields(record)
    key = answers.answers_key(fields, REFERENCES)
    if key is None:
        raise BadRow("no references", f"none of the keys {', '.join(REFERENCES)}")
    references = answers.references_of(record[key], fields, key)
    question = fields.text("question", "prompt")
    prompt = [{"role": "user", "content": question}] if question else []
    answer = {"role": "assistant", "content": references[0]}
    if not isinstance(record.get("prediction"), str):
        raise BadRow("no prediction", "prediction is not a text")
    return Example(0, prompt, answer, references, prediction=record["prediction"])
