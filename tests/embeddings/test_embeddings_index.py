"""Merged vectors where they are used: DuckDB and Chroma."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings import merge, merged_formats, vector_index
from kit import console
from support.embeddings_merges import ITEMS
from support.embeddings_samples import articles, shards


@pytest.mark.parametrize("name", ["pickle", "parquet"])
def test_duckdb_reads_the_sharded_dataset_as_it_is(options, monkeypatch, name):
    import duckdb

    monkeypatch.setattr(vector_index, "PART_ROWS", 200)
    monkeypatch.setattr(vector_index.tables, "ROW_GROUP", 100)
    options.format = name
    options.output = options.output.with_suffix(merged_formats.SUFFIXES[name])
    for _ in range(2):  # the second one takes the place of the first
        where = vector_index.load(
            "parquet-shards", options.output, merge.merge(options), options, None
        )
    assert sorted(p.name for p in where.iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    table = duckdb.sql(f"select * from '{where}/*.parquet' order by id::int")
    got = table.fetchnumpy()
    assert (np.stack(got["embedding"]) == options.array[:ITEMS]).all()
    assert list(got["title"]) == [a["title"] for a in articles(ITEMS)]
    wanted = options.array[7].tolist()
    nearest = duckdb.sql(
        f"select id from '{where}/*.parquet' "
        f"order by list_cosine_similarity(embedding, {wanted}::float[]) desc limit 1"
    )
    assert nearest.fetchall() == [(articles(8)[7]["id"],)]


def test_a_folder_with_other_files_is_not_taken_for_a_dataset(options, tmp_path):
    manifest = merge.merge(options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(console.Misuse, match="is not ours to replace"):
        vector_index.load("parquet-shards", options.output, manifest, options, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_parquet_of_the_users_own_is_not_taken_for_a_dataset(options, tmp_path):
    manifest = merge.merge(options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "measurements.parquet").write_bytes(b"years of work")
    for where in (tmp_path / "mine", tmp_path / "mine" / "measurements.parquet"):
        with pytest.raises(console.Misuse, match="is not ours to replace"):
            vector_index.load("parquet-shards", options.output, manifest, options, where)
    assert (tmp_path / "mine" / "measurements.parquet").read_bytes() == b"years of work"


@pytest.mark.slow
def test_chroma_finds_an_article_by_its_vector(options, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    for _ in range(2):
        manifest = merge.merge(options)
        where = vector_index.load("chroma", options.output, manifest, options, tmp_path / "chroma")
    client = chromadb.PersistentClient(str(where))
    assert [c.name for c in client.list_collections()] == ["all"]
    collection = client.get_collection("all", embedding_function=None)
    assert collection.count() == ITEMS and collection.metadata["model"] == "bge-base"
    answer = collection.query(query_embeddings=options.array[123:124], n_results=1)
    article = articles(ITEMS)[123]
    assert answer["ids"] == [[article["id"]]]
    assert answer["metadatas"][0][0] == {
        "title": article["title"], "url": article["url"], "row": 123,
    }  # fmt: skip


@pytest.mark.slow
def test_a_collection_that_no_merge_made_stays(options, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    options.output = options.output.with_name("日本.pkl")
    manifest = merge.merge(options)
    folder = tmp_path / "chroma"
    vector_index.load("chroma", options.output, manifest, options, folder)
    client = chromadb.PersistentClient(str(folder))
    assert [c.name for c in client.list_collections()] == ["vectors"]
    client.create_collection("documents", embedding_function=None)
    with pytest.raises(console.Problem, match="a collection documents that no merge made"):
        output = options.output.rename(options.output.with_name("documents.pkl"))
        vector_index.load("chroma", output, manifest, options, folder)
    assert {c.name for c in client.list_collections()} == {"vectors", "documents"}


@pytest.mark.parametrize("first", ["my wiki.pkl", "维基.pkl", "other/my.wiki.pkl"])
def test_a_collection_of_another_file_is_refused_by_name(tmp_path, first, capsys):
    from embeddings import chroma_index

    second = tmp_path / ("百科.pkl" if first == "维基.pkl" else "my.wiki.pkl")
    held = tmp_path / first
    held.parent.mkdir(exist_ok=True)
    held.write_bytes(b"")
    name = chroma_index.collection_name(second)
    assert name == chroma_index.collection_name(held)
    metadata = {"source": chroma_index.SOURCE, "output": str(held)}
    chroma_index.refuse_to_replace(name, metadata, held.with_suffix(".npy"))
    with pytest.raises(console.Problem, match=f"the collection {name} in Chroma holds {held}"):
        chroma_index.refuse_to_replace(name, metadata, second)
    held.unlink()
    chroma_index.refuse_to_replace(name, metadata, second)
    assert "is gone: it is replaced" in capsys.readouterr().err


@pytest.mark.slow
def test_two_files_whose_names_fall_together_do_not_replace_each_other(options, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    for name in ("my wiki.pkl", "my.wiki.pkl"):
        options.output = options.output.with_name(name)
        manifest = merge.merge(options)
        if name == "my wiki.pkl":
            vector_index.load("chroma", options.output, manifest, options, tmp_path / "chroma")
    with pytest.raises(console.Problem, match="name --output otherwise"):
        vector_index.load("chroma", options.output, manifest, options, tmp_path / "chroma")
    client = chromadb.PersistentClient(str(tmp_path / "chroma"))
    (kept,) = client.list_collections()
    assert kept.metadata["output"].endswith("my wiki.pkl") and kept.count() == ITEMS


def test_vectors_with_nan_go_into_no_index(options, tmp_path):
    array = options.array.copy()
    array[3, 0] = np.nan
    shards(options.folder, array)
    with pytest.raises(console.Problem, match="holds NaN or Inf"):
        vector_index.load(
            "chroma", options.output, merge.merge(options), options, tmp_path / "chroma"
        )
