"""Reads what is evaluated: chat rows, prompt and completion, question and answers, predictions."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from kit import console, jsonl

SHOWN = 20  # problems printed before the rest is only counted


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

    @property
    def question(self) -> str:
        """The last user turn's text."""
        users = (m["content"] for m in reversed(self.prompt) if m["role"] == "user")
        return next((text for text in users if isinstance(text, str)), "")

    @property
    def conversation(self) -> dict[str, Any]:
        """The whole row as training reads it."""
        return {"messages": [*self.prompt, self.answer], "tools": self.tools}


def read(path: Path, limit: int | None, predictions: bool, placeholders: bool) -> list[Example]:
    """The rows of a JSONL file. Every bad row is one line on stderr, then a Problem counts them.

    `limit`: rows to read, None for all. `predictions`: rows must hold one. `placeholders`: accept
    an unfilled {{name}}.
    """
    examples, problems = [], []
    for number, row in itertools.islice(jsonl.read(path), limit):
        try:
            example = _predicted(number, row) if predictions else _example(number, row)
            if not predictions:
                _check(example, placeholders)
            example.where = f"{path}:{number}"
            examples.append(example)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"no {error} in the row" if isinstance(error, KeyError) else str(error)
            problems.append(f"{path}:{number}: {what}")
    for line in problems[:SHOWN]:
        console.note(line)
    if problems:
        raise console.Problem(
            f"{path}: {len(problems)} of {len(problems) + len(examples)} rows cannot be evaluated",
            "mend or delete these lines; docs/EVALUATION.md shows the forms",
        )
    if not examples:
        raise console.Problem(f"{path}: no rows", "give a JSONL file with rows")
    return examples


def _example(number: int, row: dict[str, Any]) -> Example:
    if "messages" in row:
        turns = row["messages"]
        if not isinstance(turns, list) or len(turns) < 2:
            raise ValueError("messages needs a user turn and an assistant turn")
    elif "completion" in row:
        turns = _turns(row["prompt"], "user") + _turns(row["completion"], "assistant")
    elif "question" in row:
        context = f"{row['context']}\n\n" if row.get("context") else ""
        references = _texts(row["answers"] if "answers" in row else row["answer"])
        turns = _turns(f"{context}{row['question']}", "user") + _turns(references[0], "assistant")
        return Example(number, turns[:-1], turns[-1], references)
    else:
        raise ValueError("neither messages, nor prompt and completion, nor question and answers")
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise ValueError("a turn without a role")
    answer = turns[-1]
    if answer["role"] != "assistant":
        raise ValueError(f"the last turn is of the {answer['role']}, not of the assistant")
    text = answer.get("content")
    if not answer.get("tool_calls") and not (isinstance(text, str) and text.strip()):
        raise ValueError("the assistant's last turn is empty")
    references = [] if answer.get("tool_calls") else [text]
    return Example(number, turns[:-1], answer, references, row.get("tools"))


def _predicted(number: int, row: dict[str, Any]) -> Example:
    if not isinstance(row["prediction"], str):
        raise ValueError("prediction is not a text")
    for name in ("references", "reference", "answers", "answer", "completion"):
        if name in row:
            references = _texts(row[name])
            break
    else:
        raise ValueError("no references (or reference, answers, answer, completion)")
    question = row.get("question") or row.get("prompt") or ""
    prompt = _turns(question, "user") if question else []
    answer = {"role": "assistant", "content": references[0]}
    return Example(number, prompt, answer, references, prediction=row["prediction"])


def _turns(value: Any, role: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _texts(value: Any) -> list[str]:
    """Answers as a text, a list, or SQuAD's {"text": [...]}: a list of at least one."""
    if isinstance(value, dict):
        value = value["text"]
    texts = [value] if isinstance(value, str) else list(value)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("references must be one text or more")
    return texts


def _check(example: Example, placeholders: bool) -> None:
    """The rules of training data hold, but that a tool call may be the answer that is tested."""
    from corpus.rows import BadRow, Row, validate

    turns = [turn | {"content": turn.get("content") or ""} for turn in example.prompt]
    answer = {"role": "assistant", "content": example.answer.get("content") or "a call"}
    try:
        validate(Row([*turns, answer], example.tools))
    except BadRow as bad:
        if not (placeholders and bad.reason == "unfilled template"):
            raise ValueError(str(bad)) from None
