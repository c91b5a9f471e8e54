"""Vectors are the same in every process; a collection finds, replaces and forgets nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from config.schemas import data
from corpus.documents import embedders
from kit import console

TEXTS = ["The river floods in spring.", "Courts decide on water rights.", "日本の天気", ""]


def test_the_default_vectors_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); from corpus.documents import embedders; "
        f"print(embedders.load('hashing', 256).embed({TEXTS!r}).tobytes().hex())"
    )
    here = embedders.load("hashing", 256).embed(TEXTS).tobytes().hex()
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        assert there == here


def test_vectors_have_length_one_and_no_nan_even_without_words():
    import numpy as np

    vectors = embedders.load("hashing", 128).embed(TEXTS)
    assert vectors.shape == (4, 128) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_question_is_nearer_to_its_passage_than_to_others():
    vectors = embedders.load("hashing", 1024).embed(
        [*TEXTS[:3], "Which courts decide water rights?"]
    )
    scores = vectors[:3] @ vectors[3]
    assert scores.argmax() == 1


def test_a_local_model_finds_meaning_where_no_word_is_shared(samples):
    folder = samples / "models/semhash_model2vec_test_model"
    embedder = embedders.load(str(folder), 1024)
    vectors = embedder.embed(["a big dog barked", "huge canine", "tax declaration form"])
    assert vectors.shape == (3, 128)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_an_embedder_that_is_neither_hashing_nor_a_folder_is_a_misuse(tmp_path):
    with pytest.raises(console.Misuse, match="nor a folder with a model"):
        embedders.load("all-MiniLM-L6-v2", 384)


@pytest.fixture
def store(tmp_path):
    from corpus.documents.passage_store import PassageStore

    return PassageStore(data.DocumentsSection(), tmp_path / "chroma", create=True)


def put(store, source: str, sha: str, texts: list[str], chunking: str = "1200/150") -> None:
    store.replace(source, sha, chunking, [(text, "Title", 0) for text in texts])


@pytest.mark.slow
def test_a_changed_file_replaces_its_passages_and_leaves_the_others(store):
    put(store, "a.txt", "sha-1", ["old one", "old two"])
    put(store, "b.txt", "sha-2", ["another file"])
    put(store, "a.txt", "sha-3", ["new"])
    assert [(p.source, p.text) for p in store.passages()] == [
        ("a.txt", "new"), ("b.txt", "another file")]  # fmt: skip


def test_content_is_known_only_when_it_is_there_whole_and_cut_the_same_way(store):
    put(store, "a.txt", "sha-1", ["one", "two"])
    assert store.has("sha-1", "1200/150") == "a.txt"
    assert store.has("sha-1", "600/0") is None
    assert store.has("sha-9", "1200/150") is None
    store._collection.delete(ids=[next(store.passages()).id])  # as a killed run would leave it
    assert store.has("sha-1", "1200/150") is None


def test_a_search_gives_the_nearest_first_and_never_more_than_there_are(store):
    assert store.search(["anything"], 3) == [[]]
    put(store, "a.txt", "sha-1", ["water rights of states", "cooking with salt"])
    (passages,) = store.search(["states and water"], 5)
    assert [p.text for p in passages] == ["water rights of states", "cooking with salt"]


def test_a_collection_made_with_another_embedder_is_not_searched(store, samples):
    from corpus.documents.passage_store import PassageStore

    put(store, "a.txt", "sha-1", ["text"])
    other = data.DocumentsSection(embedder=str(samples / "models/semhash_model2vec_test_model"))
    with pytest.raises(console.Misuse, match="was made with hashing-1:1024"):
        PassageStore(other, store.folder)


def test_a_missing_store_and_a_missing_collection_name_the_command_that_makes_them(store, tmp_path):
    from corpus.documents.passage_store import PassageStore

    with pytest.raises(console.Misuse, match="ingest_documents.py"):
        PassageStore(data.DocumentsSection(), tmp_path / "nothing")
    with pytest.raises(console.Misuse, match="there are: pdf_docs"):
        PassageStore(data.DocumentsSection(collection="law"), store.folder)
