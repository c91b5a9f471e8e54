"""Rows and readings that the tests of the data commands share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kit import jsonl

TALK = [{"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Because air scatters blue light most."}]  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def write(path: Path, rows: list) -> Path:
    """A file of rows, one JSON object a line; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonl.write(path, rows)
    return path


def distinct(count: int) -> list[dict]:
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count)]
    return [{"prompt": f"What is {d[:20]}?", "completion": f"It is {d[20:]}."} for d in digests]


def read_out(tmp_path: Path) -> tuple[list[dict], list[dict], dict]:
    out = tmp_path / "out"
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return lines(out / "train_sft.jsonl"), lines(out / "val_sft.jsonl"), manifest


def refused(done, code: int) -> str:
    """The last line on stderr of a run that ended with `code`, without a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("data_prep.py: ") and ";" in last
    return last
