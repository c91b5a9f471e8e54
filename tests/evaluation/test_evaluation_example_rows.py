"""scripts/evaluation/example_rows.py: the forms that are read, and what is refused."""

import json

import pytest

from corpus.row_files import sound_rows
from corpus.rows import BadRow
from evaluation import example_rows
from kit import console


@pytest.fixture
def read(tmp_path):
    def run(*values, predictions=False, limit=None, placeholders=False):
        file = tmp_path / "rows.jsonl"
        text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        file.write_text(text, encoding="utf-8")
        return example_rows.read(file, limit, predictions, placeholders)

    return run


USER, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"question": "2 + 2?", "answer": "4"},
        {"question": "2 + 2?", "answers": ["4"]},
        {"question": "2 + 2?", "answers": {"text": ["4"], "answer_start": [0]}},
    ],
)
def test_each_form_gives_prompt_and_reference(read, row):
    (example,) = read(row)
    assert (example.prompt, example.references) == ([USER], ["4"])
    assert example.conversation.messages == [USER, ANSWER]


def test_all_answers_count_and_the_first_is_the_one_whose_loss_is_measured(read):
    (example,) = read({"question": "Where?", "answers": ["Oslo", "in Oslo"], "context": "A map."})
    assert example.references == ["Oslo", "in Oslo"]
    assert example.answer["content"] == "Oslo"
    assert example.question == "Where?\n\nA map."


@pytest.mark.parametrize("empty", [{"answers": []}, {"answers": {"text": [], "answer_start": []}}])
def test_a_question_without_an_answer_has_an_empty_reference(read, empty):
    """As in SQuAD 2.0: whoever says nothing is right. It is no row to be trained on."""
    row = {"question": "2 + 2?", "is_impossible": True} | empty
    (example,) = read(row)
    assert (example.prompt, example.references) == ([USER], [""])
    (example,) = read(row | {"prediction": "four"}, predictions=True)
    assert (example.references, example.prediction) == ([""], "four")
    with pytest.raises(BadRow, match="no answer: the question has none"):
        sound_rows(row)
    (example,) = read(row | {"answer": "4", "prediction": "4"}, predictions=True)
    assert example.references == ["4"]


def test_the_last_of_several_turns_is_the_reference(read):
    (example,) = read({"messages": [USER, ANSWER, {"role": "user", "content": "And 3 + 3?"},
                                    {"role": "assistant", "content": "6"}]})  # fmt: skip
    assert example.references == ["6"] and example.question == "And 3 + 3?"
    assert len(example.prompt) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "no turns"),
        ({"messages": [USER, USER]}, "no answer"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty turn"),
        ({"messages": [USER, {"content": "4"}]}, "unknown role"),
        ({"messages": [ANSWER, ANSWER]}, "no turns"),
        ({"messages": [USER, {"role": "assistant", "content": "{{ answer }}"}]}, "{{ answer }}"),
        ({"question": "2 + 2?"}, "unknown row format"),
        ({"text": "2 + 2 = 4"}, "unknown row format"),
    ],
)
def test_a_row_that_cannot_be_evaluated_is_named_with_its_line(read, capsys, row, message):
    with pytest.raises(console.Problem, match="1 of 2 rows cannot be used"):
        read({"messages": [USER, ANSWER]}, row)
    (line,) = capsys.readouterr().err.splitlines()
    assert "rows.jsonl:2: " in line and message in line


def test_a_placeholder_is_accepted_where_the_configuration_says_so(read):
    row = {"messages": [{"role": "user", "content": "What is {{ name }}?"}, ANSWER]}
    assert len(read(row, placeholders=True)) == 1


@pytest.mark.parametrize("name", ["references", "reference", "answers", "answer", "completion"])
def test_a_prediction_finds_its_references_under_any_of_the_usual_names(read, name):
    (example,) = read({"prediction": " 4 ", name: "four"}, predictions=True)
    assert (example.prediction, example.references) == (" 4 ", ["four"])


def test_a_prediction_without_reference_is_refused(read, capsys):
    with pytest.raises(console.Problem):
        read({"prediction": "4"}, predictions=True)
    assert "no references" in capsys.readouterr().err


def test_a_line_separator_inside_a_row_does_not_split_it(read):
    (example,) = read({"question": "a\u0085b\u2028c", "answer": "d"})
    assert example.question == "a\u0085b\u2028c"


def test_a_file_without_rows_is_a_problem_and_a_limit_reads_from_the_top(read):
    with pytest.raises(console.Problem, match="no rows"):
        read()
    rows_read = read(*({"question": str(n), "answer": "x"} for n in range(5)), limit=2)
    assert [example.question for example in rows_read] == ["0", "1"]


def test_a_turn_that_is_marked_as_a_mistake_is_no_reference(read):
    wrong = {"role": "assistant", "content": "5", "weight": 0}
    (example,) = read({"messages": [USER, ANSWER, USER, wrong]})
    assert (example.prompt, example.references) == ([USER], ["4"])
    (example,) = read({"messages": [USER, wrong, USER, ANSWER]})
    assert [m["content"] for m in example.prompt] == ["2 + 2?", "5", "2 + 2?"]
    assert example.references == ["4"]
