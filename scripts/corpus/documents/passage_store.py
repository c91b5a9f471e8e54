"""Passages in a Chroma collection: add a file's, find those nearest to a question.

Vectors always come from our embedder: Chroma's own default would go to the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpus.documents import embedders
from kit import console, paths

_BATCH = 500


class Passage(NamedTuple):
    """One stored passage. `page` is 0 where the document has no pages."""

    id: str
    text: str
    source: str
    title: str
    page: int
    place: int  # among the passages of its file, from 0


class PassageStore:
    """One collection. documents: a DocumentsSection; `create` makes a missing one."""

    def __init__(self, documents, folder: Path | None = None, create: bool = False):
        self.folder = Path(folder) if folder else paths.folder("vector_store")
        self.name = documents.collection
        if not create and not (self.folder / "chroma.sqlite3").is_file():
            raise console.Misuse(f"{self.folder}: no collections are there", self._remedy())
        self._client = _client(self.folder)
        known = {c.name for c in self._client.list_collections()}
        if not create and self.name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise console.Misuse(
                f"no collection is named {self.name}; there are: {names}", self._remedy()
            )
        self._collection = self._open(documents, self.name in known)

    def _remedy(self) -> str:
        return "make it with python scripts/ingest_documents.py PATH"

    def _open(self, documents, known: bool) -> Any:
        if known:
            collection = self._client.get_collection(self.name, embedding_function=None)
            self.embedder = _matching(collection.metadata or {}, documents, self.name)
            return collection
        self.embedder = embedders.load(documents.embedder, documents.dimensions)
        about = {"embedder": self.embedder.identity, "embedder_name": documents.embedder}
        return self._client.create_collection(
            self.name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}},
            metadata=about,
        )  # fmt: skip

    def count(self) -> int:
        """Passages in the collection."""
        return self._collection.count()

    def has(self, sha256: str, chunking: str) -> str | None:
        """The source that a file's content is stored under, whole and cut the same way; or None."""
        stored = self._collection.get(where={"sha256": sha256}, include=["metadatas"])["metadatas"]
        if stored and stored[0]["chunking"] == chunking and stored[0]["passages"] == len(stored):
            return stored[0]["source"]
        return None

    def replace(
        self, source: str, sha256: str, chunking: str, passages: Sequence[tuple[str, str, int]]
    ) -> None:
        """Store (text, title, page) of one file in place of what its source or content had."""
        self._collection.delete(where={"$or": [{"source": source}, {"sha256": sha256}]})
        for start in range(0, len(passages), _BATCH):
            part = passages[start : start + _BATCH]
            texts = [text for text, _, _ in part]
            common = {
                "source": source,
                "sha256": sha256,
                "chunking": chunking,
                "passages": len(passages),
            }
            self._collection.upsert(
                ids=[f"{sha256[:24]}:{start + i:06d}" for i in range(len(part))],
                documents=texts,
                embeddings=self.embedder.embed([f"{title}\n{text}" for text, title, _ in part]),
                metadatas=[
                    common | {"title": title, "page": page, "place": start + i}
                    for i, (_, title, page) in enumerate(part)
                ],
            )

    def passages(self) -> Iterator[Passage]:
        """Every passage, ordered by source and place."""
        ids: list[tuple] = []
        for start in range(0, self.count(), 5000):
            part = self._collection.get(limit=5000, offset=start, include=["metadatas"])
            ids += [
                (m["source"], m["place"], i)
                for i, m in zip(part["ids"], part["metadatas"], strict=True)
            ]
        ids.sort()
        for start in range(0, len(ids), _BATCH):
            wanted = [i for _, _, i in ids[start : start + _BATCH]]
            part = self._collection.get(ids=wanted, include=["metadatas", "documents"])
            page = map(_passage, part["ids"], part["documents"], part["metadatas"])
            yield from sorted(page, key=lambda p: (p.source, p.place))

    def search(self, questions: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each question its `top_k` nearest passages (fewer where fewer are), nearest first."""
        if not self.count():
            return [[] for _ in questions]
        result: list[list[Passage]] = []
        for start in range(0, len(questions), _BATCH):
            part = questions[start : start + _BATCH]
            answer = self._collection.query(
                query_embeddings=self.embedder.embed(part), n_results=min(top_k, self.count()),
                include=["metadatas", "documents"],
            )  # fmt: skip
            for ids, texts, facts in zip(
                answer["ids"], answer["documents"], answer["metadatas"], strict=True
            ):
                result.append(list(map(_passage, ids, texts, facts)))
        return result


def collection_hash(name: str, folder: Path | None = None) -> str:
    """SHA-256 over a collection's passage ids, which name their content; '' where it is missing.

    Chroma rewrites parts of its files on every reading: their bytes do not tell.
    """
    folder = folder or paths.folder("vector_store")
    if not (folder / "chroma.sqlite3").is_file():
        return ""
    client = _client(folder)
    digest = hashlib.sha256()
    if name in {collection.name for collection in client.list_collections()}:
        collection = client.get_collection(name, embedding_function=None)
        for passage in sorted(collection.get(include=[])["ids"]):
            digest.update(f"{passage}\n".encode())
    return digest.hexdigest()


def _passage(id: str, text: str, facts: dict) -> Passage:
    return Passage(id, text, facts["source"], facts["title"], facts["page"], facts["place"])


def _client(folder: Path) -> Any:
    _check_database(folder / "chroma.sqlite3")
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
    import chromadb
    from chromadb.config import Settings

    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(anonymized_telemetry=False)
    try:
        return chromadb.PersistentClient(str(folder), settings=settings)
    except chromadb.errors.InternalError as error:
        raise console.Problem(
            f"{folder}: {error}", "check its permissions, or move it away and ingest again"
        ) from None


def _check_database(path: Path) -> None:
    """Raise Problem where the database is damaged: Chroma's own library would abort on it."""
    if not path.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:  # in use, or not ours to open: Chroma will say
        return
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise console.Problem(
            f"{path} is damaged ({' '.join(verdict.split())})",
            "move its folder away and ingest the documents again",
        )


def _matching(about: dict[str, Any], documents, name: str) -> Any:
    """The embedder that a collection was made with; Misuse where another one is configured.

    The default, `hashing`, is no wish: then a model that the collection names is used.
    """
    made_with = about.get("embedder", "another program")
    dimensions = documents.dimensions
    if made_with.startswith("hashing-1:"):
        dimensions = int(made_with.partition(":")[2])
    wanted = about.get("embedder_name") if documents.embedder == "hashing" else documents.embedder
    embedder = embedders.load(wanted or documents.embedder, dimensions)
    if embedder.identity != made_with:
        raise console.Misuse(
            f"the collection {name} was made with {made_with}, documents.embedder is "
            f"{documents.embedder} ({embedder.identity})",
            "name that embedder, or ingest into another collection",
        )
    return embedder
