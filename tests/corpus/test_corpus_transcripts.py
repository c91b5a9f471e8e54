"""Conversations in one text: which speakers are understood, and what stays as it is."""

from __future__ import annotations

import pytest

from corpus import formats
from corpus.judge import validate

TALK = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def messages(record: dict) -> list[dict]:
    (row,) = formats.rows_of(record)
    validate(row)
    return row.messages


@pytest.mark.parametrize(
    "prompt",
    ["### Human: Why?### Assistant:", "### Human: Why?\n### Assistant: ", "USER: Why? ASSISTANT:",
     "User: Why?\nAssistant:", "\n\nH: Why?\n\nA:", "Human: Why?\nAssistant:"],
)  # fmt: skip
def test_a_prompt_that_opens_the_answer_is_a_conversation(prompt):
    assert messages({"prompt": prompt, "completion": "Because."}) == TALK


def test_what_precedes_the_first_speaker_is_the_system_message():
    prompt = "A chat with a helper. USER: Hi ASSISTANT: Hello. USER: Why? ASSISTANT:"
    system, *talk = messages({"prompt": prompt, "completion": "Because."})
    assert system == {"role": "system", "content": "A chat with a helper."}
    assert [m["content"] for m in talk] == ["Hi", "Hello.", "Why?", "Because."]


@pytest.mark.parametrize(
    "form",
    ["User: Why?\nAssistant: {}", "### Human: Why?\n### Assistant: {}",
     "HUMAN: Why?\nASSISTANT: {}", "H: Why?\n\nA: {}"],
)  # fmt: skip
def test_a_pair_without_a_prompt_is_read_by_its_speakers(form):
    (row,) = formats.rows_of({"chosen": form.format("Because."), "rejected": form.format("No.")})
    validate(row)
    assert row.messages == TALK
    assert row.rejected == [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize(
    "prompt",
    ["User: Why?\nAssistant: Because.\n\nSum this up", "A: first\nB: second", "Q: Why?\nA:",
     "User: one\nUser: two\nAssistant:", "Translate: User: hello", "Assistant: hi\nUser: Why?"],
)  # fmt: skip
def test_a_text_about_a_conversation_stays_one_question(prompt):
    assert messages({"prompt": prompt, "completion": "Because."})[0]["content"] == prompt


def test_a_dialogue_that_answers_a_prompt_stays_one_answer():
    text = "User: Hello\nAssistant: Hello to you"
    record = {
        "prompt": "Write a dialogue.",
        "chosen": text,
        "rejected": "User: Bye\nAssistant: Bye",
    }
    assert messages(record)[1]["content"] == text
