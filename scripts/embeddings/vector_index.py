"""Load a merged file where its vectors are used: a Chroma collection, or sharded Parquet.

    load("parquet-shards", output, manifest, options, None)     # OUTPUT.shards/part-00000.parquet

The sharded dataset is a plain folder of Parquet files with one schema: DuckDB, Ray and Spark read
it as it is, and its parts can lie on a filesystem that no single machine's disk would hold.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embeddings import articles, merge_folder, tables, worker
from kit import console, publish

PART_ROWS = 131_072  # of one Parquet file: about 400 MB of 768 float32
PART = re.compile(r"part-\d{5}\.parquet")
SOURCE = "tandem-embeddings"  # what we write into the metadata of a collection
BATCH = 2000  # vectors that Chroma takes at once


def load(kind: str, output: Path, manifest: dict[str, Any], options: Any, where: Path | None):
    """Load the merged vectors and their articles into `kind`; the folder they are in."""
    found = articles.load(options.articles, options.items, options.any_order)
    if kind == "parquet-shards":
        return to_parquet_shards(output, manifest, found, where)
    return to_chroma(output, manifest, found, where)


def blocks(output: Path, manifest: dict[str, Any], n: int) -> Iterator[Any]:
    """The merged vectors in arrays of up to `n` rows, whatever the format."""
    if manifest["layout"] == "parquet":
        return tables.of_parquet(output, n)
    found = manifest["vectors"]
    return tables.vectors(output, found["offset"], found["dtype"], tuple(found["shape"]), n)


def to_parquet_shards(
    output: Path, manifest: dict[str, Any], found: articles.Articles, where: Path | None
) -> Path:
    """One folder of Parquet files; it takes the place of an earlier one when it is whole."""
    target = Path(os.path.realpath(where or output.with_name(f"{output.name}.shards")))
    if target.exists() and not is_ours(target):
        raise console.Misuse(f"--index-dir {target} is not ours to replace", "name another folder")
    table = worker.table(found)
    whole = tables.schema(table.schema, manifest["shape"][1], manifest["vectors"]["dtype"])
    with merge_folder.MergeFolder(target) as stage:
        parts = stage.path("parts")
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        source = regroup(blocks(output, manifest, tables.ROW_GROUP), PART_ROWS)
        with console.progress(table.num_rows, "parquet-shards", "rows") as bar:
            for number, (begin, rows, group) in enumerate(source):
                name = f"part-{number:05d}.parquet"
                tables.write(parts / name, table.slice(begin, rows), group, whole, bar.update)
        publish.fsync_folder(parts)
        stage.commit({"parts": target})
    return target


def is_ours(target: Path) -> bool:
    """Whether it is a folder that holds nothing but parts of an earlier index."""
    return target.is_dir() and all(PART.fullmatch(p.name) for p in target.iterdir())


def regroup(source: Iterator[Any], per_part: int) -> Iterator[tuple[int, int, Iterator[Any]]]:
    """(first row, at most how many, their blocks) of each part; `per_part`: whole blocks."""
    begin = 0
    for first in source:

        def part(block: Any = first) -> Iterator[Any]:
            nonlocal begin
            done = len(block)
            yield block
            while done < per_part and (block := next(source, None)) is not None:
                done += len(block)
                yield block
            begin += done

        yield begin, per_part, part()


def to_chroma(
    output: Path, manifest: dict[str, Any], found: articles.Articles, where: Path | None
) -> Path:
    """A Chroma collection named after the file; an earlier one stays until it is whole."""
    from kit import paths

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
        build_collection(client, output, manifest, found)
    except chromadb.errors.ChromaError as error:
        raise console.Problem(
            f"{folder}: Chroma says: {str(error).splitlines()[0][:200]}",
            "name another --index-dir, or move that folder away",
        ) from None
    return folder


def build_collection(
    client: Any, output: Path, manifest: dict[str, Any], found: articles.Articles
) -> None:
    """Fill a collection beside the one of that name, then take its place."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", output.stem)[:60].strip("-_")
    name = name if len(name) > 2 else f"vectors{name and '-'}{name}"  # Chroma wants three
    building = f"{name}-building"
    for old in client.list_collections():
        if old.name in (name, building) and (old.metadata or {}).get("source") != SOURCE:
            raise console.Problem(
                f"Chroma has a collection {old.name} that no merge made", "name --output otherwise"
            )
    with contextlib.suppress(Exception):  # left by an interrupted run; absent otherwise
        client.delete_collection(building)
    collection = client.create_collection(
        building, embedding_function=None, configuration={"hnsw": {"space": "cosine"}},
        metadata={"source": SOURCE, "model": manifest["model"],
                  "timestamp": manifest["timestamp"]},
    )  # fmt: skip
    fill(collection, blocks(output, manifest, BATCH), found)
    if collection.count() != len(found.ids):
        raise console.Problem(
            f"Chroma holds {collection.count()} of {len(found.ids)} vectors", "run it again"
        )
    with contextlib.suppress(Exception):
        client.delete_collection(name)
    collection.modify(name=name)


def fill(collection: Any, source: Iterator[Any], found: articles.Articles) -> None:
    """Add every vector with its article's id, title and URL, and its row."""
    at = 0
    with console.progress(len(found.ids), "chroma", "rows") as bar:
        for block in source:
            rows = range(at, at + len(block))
            collection.add(
                ids=[text(found.ids[row]) for row in rows],
                embeddings=block.astype("f4", copy=False),
                metadatas=[
                    {"title": text(found.titles[row]), "url": text(found.urls[row]), "row": row}
                    for row in rows
                ],
            )
            at += len(block)
            bar.update(len(block))


def text(value: bytes | int) -> str:
    return str(value) if isinstance(value, int) else value.decode("utf-8", "replace")
