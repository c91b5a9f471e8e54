"""JSON Lines: one JSON object a line, UTF-8.

Lines are split at \\n only: str.splitlines() would break rows that hold U+0085 or U+2028.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kit import console, publish


def read(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object). A bad line is a Problem that names file and line."""
    path = Path(path)
    with open(path, "rb") as f:
        for number, raw in enumerate(f, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", None) or getattr(error, "reason", str(error))
                raise console.Problem(
                    f"{path}:{number}: not a line of JSON ({reason})",
                    "each line must be one JSON object in UTF-8",
                ) from None
            if not isinstance(row, dict):
                raise console.Problem(
                    f"{path}:{number}: a JSON {type(row).__name__} instead of an object",
                    "each line must be one JSON object",
                )
            yield number, row


def write(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> int:
    """Publish `rows` at `path` and return how many there were."""
    count = 0
    with publish.file(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
