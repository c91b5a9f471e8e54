"""Puts retrieved passages before questions, in the form of data_prep.py's RAG rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config import loader
from evaluation import example_rows


def augment(
    examples: Sequence[example_rows.Example], collection: str, top_k: int
) -> dict[str, Any]:
    """Give each example its `top_k` nearest passages; rows that come with passages stay.

    Returns {"augmented", "already": rows, "answer_found": share of the augmented rows whose
    passages contain a reference}. The embedder is documents.embedder of data_config.yaml.
    Raises Misuse for an unknown collection.
    """
    from corpus.documents import passage_store, questions

    documents = loader.load("data_config.yaml").documents
    chosen = documents.model_copy(update={"collection": collection})
    passage_database = passage_store.PassageStore(chosen)
    plain = [e for e in examples if questions.RAG not in e.question]
    hits = 0
    passages = passage_database.search([e.question for e in plain], top_k) if plain else []
    for example, nearest in zip(plain, passages, strict=True):
        before = f"{questions.numbered(nearest)}\n\n{questions.RAG}\n"
        example.prompt = _before_question(example.prompt, before)
        text = "\n".join(passage.text for passage in nearest).casefold()
        hits += any(reference.casefold() in text for reference in example.references)
    return {
        "augmented": len(plain),
        "already": len(examples) - len(plain),
        "answer_found": hits / len(plain) if plain else None,
    }


def _before_question(prompt: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The prompt with `text` before its last question."""
    turns = [dict(turn) for turn in prompt]
    asked = next(turn for turn in reversed(turns) if turn["role"] == "user")
    asked["content"] = text + asked["content"]
    return turns
