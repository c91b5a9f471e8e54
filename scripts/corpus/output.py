"""What data_prep leaves behind: training files, their manifest, and the rejects where asked for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corpus.rows import Reject, Row
from kit import console, publish

MANIFEST = "manifest.json"


def contents(train: list[Row], val: list[Row], also_sft: bool) -> dict[str, bytes]:
    """{file name: its bytes} in the order of publishing; preference files only with rows.

    `also_sft`: the chosen answers of preference rows become SFT rows too.
    """
    files = {}
    for kind in ("sft", "preference"):
        for side, rows in (("train", train), ("val", val)):
            made = _as_written(rows, kind, also_sft)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in made)
            files[f"{side}_{kind}.jsonl"] = "".join(lines).encode()
    if not files["train_preference.jsonl"] and not files["val_preference.jsonl"]:
        del files["train_preference.jsonl"], files["val_preference.jsonl"]
    return files


def _as_written(rows: Iterable[Row], kind: str, also_sft: bool) -> Iterator[dict[str, Any]]:
    for row in rows:
        if kind == "preference" and row.rejected is not None:
            yield row.preference()
        elif kind == "sft" and (row.rejected is None or also_sft):
            yield row.sft()


def manifest(result, config, files: dict[str, bytes], given: dict[str, Any]) -> dict[str, Any]:
    """What the files are and how they were made.

    result: preparation.PreparedRows; given: the input.
    """
    return {
        "format": 1,
        "files": {
            name: {
                "sha256": hashlib.sha256(data).hexdigest(),
                "rows": data.count(b"\n"),
                "bytes": len(data),
            }
            for name, data in files.items()
        },
        "input": given,
        "sources": {name: tally.as_dict() for name, tally in result.tallies.items()},
        "not_read": {r.source: r.detail for r in result.rejects if r.reason == "skipped"},
        "length": result.length,
        "config": config.model_dump(mode="json"),
    }


def source(out: Path) -> str | None:
    """What the rows in `out` were made of; None where there are none, or generated ones."""
    if not (out / MANIFEST).is_file():
        return None
    try:
        given = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["input"]
        return given["path"] or given["collection"]
    except (ValueError, KeyError, TypeError):
        return f"an unknown source ({MANIFEST} is damaged)"


def write(out: Path, files: dict[str, bytes], about: dict[str, Any]) -> None:
    """Every file complete beside its final name before the first is renamed; manifest last."""
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    with contextlib.ExitStack() as stack:  # it leaves in reverse: the first file is renamed first
        for name, data in reversed([*files.items(), (MANIFEST, text.encode())]):
            f = stack.enter_context(publish.file(out / name, "wb"))
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
    for side in ("train", "val"):
        name = f"{side}_preference.jsonl"
        if name not in files:  # of an earlier run that had preference rows
            (out / name).unlink(missing_ok=True)


def check_file(option: str, path: str | None) -> None:
    """Raise Misuse where the file that an option names is a folder."""
    if path and Path(path).is_dir():
        raise console.Misuse(f"{option} {path} is a folder", "name a file in it")


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """One JSON object a line: source, row, reason, detail, bad (broken, not filtered), record."""
    with publish.file(path) as f:
        for r in rejects:
            line = {
                "source": r.source,
                "row": r.number,
                "reason": r.reason,
                "detail": r.detail,
                "bad": r.bad,
                "record": r.record,
            }
            f.write(json.dumps(line) + "\n")
