"""Rows about one passage are judged by what differs, and stay on one side of the split."""

from __future__ import annotations

import random
import re

import pytest

from corpus import shared_text
from corpus.rows import Row
from support.data_room import lines, read_out, write

pytest_plugins = ("support.data_fixtures",)

R = random.Random(4)
WORDS = ["".join(R.choices("abcdefghijklmnoprstuv", k=R.randint(3, 9))) for _ in range(4000)]


def sentence(count: int = 9) -> str:
    return " ".join(R.choices(WORDS, k=count)).capitalize() + "."


def about(passages: int, each: int, form) -> list[dict]:
    texts = [" ".join(sentence() for _ in range(9)) for _ in range(passages)]
    return [
        form(text, f"Why {sentence(5)[:-1]}?", sentence()) for text in texts for _ in range(each)
    ]


FORMS = {
    "context": lambda p, q, a: {"context": p, "question": q, "answer": a},
    "input": lambda p, q, a: {"instruction": q, "input": p, "output": a},
    "one line": lambda p, q, a: {"prompt": f"{p} {q}", "completion": a},
    "messages": lambda p, q, a: {"messages": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": f"Context:\n{p}\n\nQuestion:\n{q}"},
        {"role": "assistant", "content": a}]},
}  # fmt: skip
OPEN = ["--set", "language.keep=[]", "--confirm"]


@pytest.mark.parametrize("form", FORMS)
def test_questions_on_one_passage_are_kept_and_on_one_side(prep, tmp_path, form):
    rows = about(8, 5, FORMS[form])
    done = prep("--input", write(tmp_path / "in.jsonl", rows), *OPEN)
    assert done.returncode == 0, done.stderr
    train, val, _ = read_out(tmp_path)
    assert len(train) + len(val) == 40 and len(val) == 5

    def words(side: list[dict]) -> set[str]:
        return {word for row in side for word in row["messages"][-2]["content"].split()
                if len(word) > 7}  # fmt: skip

    assert len(words(val) & words(train)) < len(words(val)) / 4


def test_questions_on_one_schema_are_kept_and_split(prep, tmp_path):
    schema = "\n".join(f"CREATE TABLE {word} (id int, {word}_name text);" for word in WORDS[:12])
    rows = [{"prompt": f"{schema}\n{sentence()}", "completion": f"SELECT {sentence(4)}"}
            for _ in range(60)]  # fmt: skip
    assert prep("--input", write(tmp_path / "in.jsonl", rows), *OPEN).returncode == 0
    train, val, _ = read_out(tmp_path)
    assert len(train) + len(val) == 60 and len(val) == 3


def test_the_same_question_on_one_passage_is_still_a_near_duplicate(prep, tmp_path):
    rows = about(20, 1, FORMS["context"])
    again = [row | {"question": row["question"] + " Please?"} for row in rows[:6]]
    rejects = tmp_path / "rejects.jsonl"
    prep("--input", write(tmp_path / "in.jsonl", rows + again), *OPEN, "--rejects", rejects)
    assert [r["row"] for r in lines(rejects)] == [21, 22, 23, 24, 25, 26]
    assert {r["reason"] for r in lines(rejects)} == {"near-duplicate"}


def test_a_long_text_with_one_word_changed_is_a_near_duplicate():
    text = " ".join(sentence() for _ in range(12))
    changed = text.replace(text.split()[40], "otherwise", 1)

    def row(prompt: str, answer: str = "satire") -> Row:
        return Row([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])

    assert not shared_text.differ(row(text), row(changed), 0.7, 5)
    assert not shared_text.differ(row(text), row(f"Must see: {text}"), 0.7, 5)
    assert shared_text.differ(row(text, sentence()), row(text, sentence()), 0.7, 5)


def test_a_source_that_mostly_goes_is_warned_about(prep, tmp_path):
    base = [sentence(12) for _ in range(10)]
    rows = [{"prompt": f"{text} {n}?", "completion": "Yes."} for text in base for n in range(5)]
    done = prep("--input", write(tmp_path / "in.jsonl", rows), *OPEN)
    assert re.search(r"warn  in.jsonl: near-duplicate takes [34]\d of 50 rows", done.stderr)
