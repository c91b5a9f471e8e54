"""The articles that the vectors belong to: id, title and URL of each, in the order of the rows.

    articles = load("data/raw/wikipedia.pkl", keep=250_000)     # .pkl, .jsonl or .parquet
    articles.titles[0], articles.urls[0]      # UTF-8 bytes, which is how every output wants them
    articles.ids[0]                        # UTF-8 bytes, or an int where the file has numbers

The pickle is a list of dicts with at least id, title and url; pickles/article_list reads it without
executing anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embeddings.pickles import article_list
from embeddings.pickles.record_scan import KEYS
from kit import console

READERS = {".pkl": "pickle", ".pickle": "pickle", ".jsonl": "jsonl", ".parquet": "parquet"}


@dataclass
class Articles:
    """The first `keep` articles of a file, by column, and how many it holds in all."""

    ids: list[bytes] | list[int] = field(default_factory=list)
    titles: list[bytes] = field(default_factory=list)
    urls: list[bytes] = field(default_factory=list)
    total: int = 0

    def columns(self) -> tuple[list, list, list]:
        """The three columns in the order of KEYS."""
        return self.ids, self.titles, self.urls


def load(path: str | os.PathLike, keep: int, any_order: bool = False) -> Articles:
    """The first `keep` articles at `path`, counted and in order; a Problem says what is wrong."""
    path = Path(path)
    kind = kind_of(path)
    articles = {"pickle": read_pickle, "jsonl": read_jsonl, "parquet": read_parquet}[kind](
        path, keep
    )
    check_text(articles, path)
    check_order(articles, path, keep, any_order)
    return articles


def kind_of(path: Path) -> str:
    """The file's format; a Misuse if there is no such file or it has none of READERS."""
    if path.suffix not in READERS:
        raise console.Misuse(f"{path}: articles come as {', '.join(READERS)}", "name such a file")
    if not path.is_file():
        raise console.Misuse(f"{path}: there are no articles", "put them there or say --articles")
    return READERS[path.suffix]


def check_text(articles: Articles, path: Path) -> None:
    """Every text is UTF-8, every id of the same type."""
    kinds = set(map(type, articles.ids))
    if len(kinds) > 1:
        raise console.Problem(f"{path}: some ids are text and some are numbers", "write one kind")
    for key, column in zip(KEYS, articles.columns(), strict=True):
        for begin in range(0, 0 if int in kinds and key == "id" else len(column), 1000):
            try:
                b"\n".join(column[begin : begin + 1000]).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                raise console.Problem(
                    f"{path}: a {key} in articles {begin}-{begin + 1000} is not UTF-8",
                    "write the file again",
                ) from None


def check_order(articles: Articles, path: Path, keep: int, any_order: bool) -> None:
    """Enough articles, none twice, and ids that are numbers ascending."""
    if articles.total < keep:
        raise console.Problem(
            f"{path}: {articles.total} articles for {keep} vectors",
            "give the articles that were embedded, or fewer --items",
        )
    out_of_order = first_descent(articles.ids)
    if out_of_order == 0:
        return
    seen: dict[Any, int] = {}
    for row, key in enumerate(articles.ids):
        if seen.setdefault(key, row) != row:
            name = key if isinstance(key, int) else key.decode("utf-8", "replace")[:60]
            raise console.Problem(
                f"{path}: the id {name!r} is that of articles {seen[key]} and {row}",
                "give the articles in the order in which they were embedded, each once",
            )
    if out_of_order and not any_order:
        before, this = (int(articles.ids[row]) for row in (out_of_order - 1, out_of_order))
        raise console.Problem(
            f"{path}: article {out_of_order} has the id {this} after {before}: "
            "vectors are matched by position, and this file seems shuffled",
            "give it in the order of the embedding, or --articles-order any if this is that order",
        )


def first_descent(ids: list[bytes] | list[int]) -> int | None:
    """The first article whose id does not ascend; 0 if all do, None if an id is not a number."""
    first, before = 0, None
    try:
        for row, number in enumerate(map(int, ids)):
            if not first and before is not None and number <= before:
                first = row
            before = number
    except ValueError:
        return None
    return first


def read_jsonl(path: Path, keep: int) -> Articles:
    from kit import jsonl

    articles = Articles()
    for number, row in jsonl.read(path):
        if articles.total < keep:
            add(articles, row, f"{path}:{number}")
        articles.total += 1
    return articles


def read_parquet(path: Path, keep: int) -> Articles:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [key for key in KEYS if key not in file.schema_arrow.names]
            if missing:
                raise console.Problem(f"{path}: no column {', '.join(missing)}", "add it")
            articles = Articles(total=file.metadata.num_rows)
            for batch in file.iter_batches(10_000, columns=list(KEYS)):
                for row in batch.slice(0, keep - len(articles.ids)).to_pylist():
                    add(articles, row, f"{path}, article {len(articles.ids)}")
                if len(articles.ids) >= keep:
                    break
            return articles
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise console.Problem(
            f"{path}: not readable as Parquet: {reason}", "write it again"
        ) from None


def add(articles: Articles, row: dict[str, Any], where: str) -> None:
    """Append one article; a Problem if a key is missing or has the wrong type."""
    for key, column in zip(KEYS, articles.columns(), strict=True):
        value = row.get(key)
        if type(value) is str:
            column.append(value.encode("utf-8", "surrogatepass"))
        elif key == "id" and type(value) is int and -(1 << 63) <= value < 1 << 63:
            column.append(value)
        else:
            kind = "is missing" if key not in row else f"is a {type(value).__name__}"
            kind = "is beyond 64 bits" if key == "id" and type(value) is int else kind
            raise console.Problem(f"{where}: the article's {key} {kind}", "correct that article")


def read_pickle(path: Path, keep: int) -> Articles:
    columns, total = article_list.read(path, keep)
    return Articles(*columns, total)
