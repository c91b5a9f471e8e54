"""Load a merged file into a Chroma collection that is named after it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embeddings import tables
from embeddings.articles import Articles
from kit import console, paths

SOURCE = "tandem-embeddings"  # what we write into the metadata of a collection
BATCH = 2000  # vectors that Chroma takes at once


def load(output: Path, manifest: dict[str, Any], rows: Articles, where: Path | None) -> Path:
    """A Chroma collection named after the file; an earlier one stays until it is whole."""
    quality = manifest["quality_metrics"]
    if quality["has_nan"] or quality["has_inf"]:
        raise console.Problem(
            f"{output.name} holds NaN or Inf, which no nearest-neighbour index takes",
            "embed those items again, then merge and index",
        )
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
    import chromadb

    folder = Path(where or paths.folder("vector_store"))
    folder.mkdir(parents=True, exist_ok=True)
    settings = chromadb.Settings(anonymized_telemetry=False)
    try:
        client = chromadb.PersistentClient(path=str(folder), settings=settings)
        build_collection(client, output, manifest, rows)
    except chromadb.errors.ChromaError as error:
        raise console.Problem(
            f"{folder}: Chroma says: {console.first_line(error)[:200]}",
            "name another --index-dir, or move that folder away",
        ) from None
    return folder


def build_collection(client: Any, output: Path, manifest: dict[str, Any], rows: Articles) -> None:
    """Fill a new collection, then put it in the place of the one of that name."""
    name = collection_name(output)
    building = f"{name}-building"
    for old in client.list_collections():
        if old.name in (name, building):
            refuse_to_replace(old.name, old.metadata or {}, output)
    with contextlib.suppress(Exception):  # left by an interrupted run; absent otherwise
        client.delete_collection(building)
    collection = client.create_collection(
        building, embedding_function=None, configuration={"hnsw": {"space": "cosine"}},
        metadata={"source": SOURCE, "model": manifest["model"],
                  "timestamp": manifest["timestamp"], "output": str(output)},
    )  # fmt: skip
    fill(collection, tables.merged_blocks(output, manifest, BATCH), rows)
    if collection.count() != len(rows.ids):
        raise console.Problem(
            f"Chroma holds {collection.count()} of {len(rows.ids)} vectors", "run it again"
        )
    with contextlib.suppress(Exception):
        client.delete_collection(name)
    collection.modify(name=name)


def collection_name(output: Path) -> str:
    """The file's name with the characters that Chroma takes; it needs at least three."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", output.stem)[:60].strip("-_")
    return name if len(name) > 2 else f"vectors{name and '-'}{name}"


def refuse_to_replace(name: str, metadata: dict[str, Any], output: Path) -> None:
    """A Problem unless a collection holds an earlier state of `output`.

    Names of files fall together in Chroma, which takes few characters; so do equal names in two
    folders. What a collection holds is replaced where that file is gone, and then it is noted.
    """
    if metadata.get("source") != SOURCE:
        raise console.Problem(
            f"Chroma has a collection {name} that no merge made", "name --output otherwise"
        )
    holds = Path(str(metadata.get("output", output)))
    if holds.with_suffix("") == output.with_suffix(""):
        return
    if holds.exists():
        raise console.Problem(
            f"the collection {name} in Chroma holds {holds}, whose name is the same there as that "
            f"of {output.name}",
            "name --output otherwise, or another --index-dir",
        )
    console.note(f"the collection {name} held {holds}, which is gone: it is replaced")


def fill(collection: Any, source: Iterator[Any], rows: Articles) -> None:
    """Add every vector with its article's id, title and URL, and its row."""
    at = 0
    with console.progress(len(rows.ids), "chroma", "rows") as bar:
        for block in source:
            numbers = range(at, at + len(block))
            collection.add(
                ids=[text(rows.ids[row]) for row in numbers],
                embeddings=block.astype("f4", copy=False),
                metadatas=[
                    {"title": text(rows.titles[row]), "url": text(rows.urls[row]), "row": row}
                    for row in numbers
                ],
            )
            at += len(block)
            bar.update(len(block))


def text(value: bytes | int) -> str:
    return str(value) if isinstance(value, int) else value.decode("utf-8", "replace")
