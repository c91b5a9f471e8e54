"""Vectors and articles as one Parquet table, in one file or many, row group by row group.

Columns: id, title, url, embedding (fixed-size list of float32 or float64; float16 becomes
float32, which every reader knows). Written without compression of the vectors: they have none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROW_GROUP = 8192  # rows: 24 MB of 768 float32


def vectors(path: Path, offset: int, dtype: str, shape: tuple[int, int], n: int) -> Iterator[Any]:
    """The rows that begin at `offset` of a file, as arrays of up to `n` rows."""
    import numpy as np

    row_bytes = shape[1] * int(dtype[2:])
    with open(path, "rb", buffering=0) as f:
        f.seek(offset)
        for begin in range(0, shape[0], n):
            block = np.empty((min(n, shape[0] - begin), shape[1]), dtype)
            view = memoryview(block).cast("B")
            while view:
                got = f.readinto(view)
                if not got:
                    raise OSError(
                        5, f"it ends before row {shape[0]} of {row_bytes} bytes", str(path)
                    )
                view = view[got:]
            yield block


def of_parquet(path: Path, n: int) -> Iterator[Any]:
    """The vectors of a Parquet table written here, as arrays of up to `n` rows."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(n, columns=["embedding"]):
            column = batch.column(0)
            yield column.flatten().to_numpy().reshape(len(column), -1)


def merged_blocks(output: Path, manifest: dict[str, Any], n: int) -> Iterator[Any]:
    """The vectors of a merged file in arrays of up to `n` rows, whatever its format."""
    if manifest["layout"] == "parquet":
        return of_parquet(output, n)
    layout = manifest["vectors"]
    return vectors(output, layout["offset"], layout["dtype"], tuple(layout["shape"]), n)


def schema(articles: Any, dim: int, dtype: str) -> Any:
    """The table's schema: the articles' columns and the vectors."""
    import pyarrow as pa

    kind = pa.float64() if dtype == "<f8" else pa.float32()
    return articles.append(pa.field("embedding", pa.list_(kind, dim)))


def record(articles: Any, block: Any, whole: Any) -> Any:
    """One record batch: some rows of the articles' table and their vectors."""
    import pyarrow as pa

    kind = whole.field("embedding").type
    flat = pa.array(block.astype(kind.value_type.to_pandas_dtype(), copy=False).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.Table.from_arrays([*articles.columns, column], schema=whole)


def writer(path: Path, whole: Any) -> Any:
    """A ParquetWriter for the schema."""
    import pyarrow.parquet as pq

    packed = {name: "zstd" for name in whole.names if name != "embedding"}
    return pq.ParquetWriter(
        path, whole, compression=packed | {"embedding.list.element": "none"}, use_dictionary=False
    )


def join(data: Path, manifest: dict[str, Any], articles: Path, target: Path) -> None:
    """Write `target` from the staged rows and the staged table of articles; flush it."""
    import pyarrow.parquet as pq

    layout, shape = manifest["vectors"], tuple(manifest["shape"])
    table = pq.read_table(articles)
    blocks = vectors(data, layout["offset"], layout["dtype"], shape, ROW_GROUP)
    write(target, table, blocks, schema(table.schema, shape[1], layout["dtype"]))


def write(
    target: Path,
    table: Any,
    blocks: Iterator[Any],
    whole: Any,
    progress: Callable = lambda rows: None,
) -> None:
    """One Parquet file of `table` (a pyarrow table of articles) and the vectors."""
    at = 0
    with writer(target, whole) as out:
        for block in blocks:
            out.write_table(record(table.slice(at, len(block)), block, whole), ROW_GROUP)
            at += len(block)
            progress(len(block))
    flush(target)


def flush(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())
