"""scripts/evaluation/rag.py with a real collection."""

import pytest

from config import loader
from corpus.documents import passage_store, questions
from evaluation import example_rows, rag
from kit import console

TEXTS = {
    "norway": "The capital of Norway is Oslo, at the head of the Oslofjord.",
    "mill": "The red mill of Sandvika was built in 1842 and burned down in 1911.",
    "bread": "Bread rises because yeast makes gas from the sugars of the flour.",
}


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """The collection `facts` with one passage a text."""
    monkeypatch.setenv("TANDEM_WORKDIR", str(tmp_path))
    documents = loader.load("data_config.yaml").documents
    made = passage_store.PassageStore(
        documents.model_copy(update={"collection": "facts"}), create=True
    )
    for number, (title, text) in enumerate(TEXTS.items()):
        made.replace(f"{title}.txt", str(number) * 64, "whole", [(text, title, 0)])
    return "facts"


def example(question, answer, *before):
    turns = [*before, {"role": "user", "content": question}]
    return example_rows.Example(1, turns, {"role": "assistant", "content": answer}, [answer])


def test_the_nearest_passage_stands_before_the_question_as_in_training_rows(collection):
    question = "When did the mill of Sandvika burn down?"
    asked = example(question, "1911")
    facts = rag.augment([asked], collection, 1)
    trained = questions.Asked("mill", question, "1911", "", "")
    (row,) = questions.rows(trained, ["rag"], f"[1] mill\n{TEXTS['mill']}")
    assert [*asked.prompt, asked.answer] == row.messages
    assert facts == {"augmented": 1, "already": 0, "answer_found": 1.0}


def test_top_k_passages_are_numbered_and_earlier_turns_are_kept(collection):
    system = {"role": "system", "content": "Be brief."}
    asked = example("Why does bread rise?", "gravity", system)
    facts = rag.augment([asked], collection, 2)
    assert asked.prompt[0] == system
    content = asked.prompt[1]["content"]
    assert content.startswith("[1] bread\n") and "[2] " in content and "[3] " not in content
    assert content.endswith("\nWhy does bread rise?") and facts["answer_found"] == 0.0


def test_rows_that_bring_their_passages_are_left_as_they_are(collection):
    asked = example(f"[1] a\nText\n\n{questions.RAG}\nWhat?", "Text")
    before = list(asked.prompt)
    facts = rag.augment([asked], collection, 1)
    assert asked.prompt == before
    assert facts == {"augmented": 0, "already": 1, "answer_found": None}


def test_an_unknown_collection_names_those_there_are(collection):
    with pytest.raises(console.Misuse, match="there are: facts"):
        rag.augment([example("What?", "That")], "fact", 1)
