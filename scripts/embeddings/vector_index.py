"""Load a merged file where its vectors are used: a Chroma collection, or sharded Parquet.

    load("parquet-shards", output, manifest, options, None)     # OUTPUT.shards/part-00000.parquet

The sharded dataset is a plain folder of Parquet files with one schema: DuckDB, Ray and Spark read
it as it is, and its parts can lie on a filesystem that no single machine's disk would hold.
"""

from __future__ import annotations

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


def load(kind: str, output: Path, manifest: dict[str, Any], options: Any, where: Path | None):
    """Load the merged vectors and their articles into `kind`; the folder they are in."""
    loaded = articles.load(options.articles, options.items, options.any_order)
    if kind == "parquet-shards":
        return to_parquet_shards(output, manifest, loaded, where)
    from embeddings import chroma_index

    return chroma_index.load(output, manifest, loaded, where)


def to_parquet_shards(
    output: Path, manifest: dict[str, Any], loaded: articles.Articles, where: Path | None
) -> Path:
    """One folder of Parquet files; it takes the place of an earlier one when it is whole."""
    target = Path(os.path.realpath(where or output.with_name(f"{output.name}.shards")))
    if target.exists() and not is_ours(target):
        raise console.Misuse(f"--index-dir {target} is not ours to replace", "name another folder")
    table = worker.table(loaded)
    whole = tables.schema(table.schema, manifest["shape"][1], manifest["vectors"]["dtype"])
    with merge_folder.MergeFolder(target) as stage:
        parts = stage.path("parts")
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        source = regroup(tables.merged_blocks(output, manifest, tables.ROW_GROUP), PART_ROWS)
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
