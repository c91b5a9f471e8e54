"""The schema of what is read from a run's folder: types, finite numbers, depth, size.

A folder may come from a host or from an older Tandem. Whatever does not fit is a DamagedFile,
one line for the reader; unknown keys stay, because newer writers add some.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config import yaml_reader
from kit import json_files

MOST_BYTES = 4 << 20  # of status.json, run.json, config.yaml
MOST_DEPTH = 12
MOST_PARTS = 200_000  # what a YAML file's anchors may expand to
MOST_NUMBER = 1e15  # above it a step, a time or a count is no such thing
STATES = ("running", "stopped", "failed", "completed", "hung")


class DamagedFile(ValueError):
    """A file of a run's folder that is not what its name promises; the text says why."""


def read_text(file: Path) -> str:
    """The text of a regular file of at most MOST_BYTES. FileNotFoundError where there is none."""
    if not file.is_file():
        if file.exists():
            raise DamagedFile("not a regular file")
        raise FileNotFoundError(2, "No such file or directory", str(file))
    with file.open("rb") as f:
        raw = f.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise DamagedFile(f"more than {MOST_BYTES >> 20} MB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedFile("not UTF-8") from None


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object of bounded depth and with bounded numbers."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also a number of too many digits
        raise DamagedFile("not JSON") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"a JSON {type(value).__name__} instead of an object")
    check_size(value)
    return value


def check_size(value: Any) -> None:
    """DamagedFile where a value is nested deeper than MOST_DEPTH or has too many parts."""
    try:
        json_files.check_size(value, MOST_DEPTH, MOST_PARTS)
    except ValueError as error:
        raise DamagedFile(str(error)) from None


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """A whole number from 0 on."""
    return type(value) is int and 0 <= value < MOST_NUMBER


def is_time(value: Any) -> bool:
    """Unix seconds: a finite number from 0 on."""
    return _is_number(value) and math.isfinite(value) and 0 <= value < MOST_NUMBER


def is_measure(value: Any) -> bool:
    """A measured number; a loss may be NaN."""
    return _is_number(value)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 63
    return type(value) is float


STATUS: dict[str, Callable[[Any], bool]] = {
    "state": is_text, "run_id": is_text, "host": is_text, "kind": is_text, "error": is_text,
    "final": is_text, "checkpoint": is_text, "resumed_from": is_text, "phase": is_text,
    "pid": is_count, "step": is_count, "max_steps": is_count, "command": is_texts,
    "started": is_time, "heartbeat": is_time, "ended": is_time,
    "epoch": is_measure, "loss": is_measure, "eval_loss": is_measure,
    "learning_rate": is_measure, "eta_seconds": is_measure, "objective": is_object,
}  # fmt: skip
FACTS: dict[str, Callable[[Any], bool]] = {
    "base_model": is_text, "base_revision": is_text, "base_identity": is_object,
    "train_sha256": is_text, "val_sha256": is_text, "data_manifest_sha256": is_text,
    "environment_lock_sha256": is_text, "chat_template_sha256": is_text,
    "tokenizer_sha256": is_text, "special_tokens_sha256": is_text, "seed": is_count,
    "world_size": is_count, "device": is_text, "data": is_object,
    "kind": is_text, "start": is_object, "reward_model": is_object,
    "memory": is_object, "speed": is_object,
}  # fmt: skip


def check_fields(value: dict[str, Any], fields: dict[str, Callable[[Any], bool]]) -> None:
    """DamagedFile where a known key has a value of another kind; null means 'not known'."""
    for key, fits in fields.items():
        if value.get(key) is not None and not fits(value[key]):
            raise DamagedFile(f"its {key} is not a {fits.__name__.removeprefix('is_')}")


def status(text: str) -> dict[str, Any]:
    """A checked status.json. Raises DamagedFile."""
    value = parse_object(text)
    if not isinstance(value.get("state"), str):
        raise DamagedFile("it does not say the run's state")
    if value["state"] not in STATES:
        raise DamagedFile(f"{value['state'][:40]!r} is not a state of a run")
    check_fields(value, STATUS)
    return value


def facts(text: str) -> dict[str, Any]:
    """A checked run.json. Raises DamagedFile."""
    value = parse_object(text)
    check_fields(value, FACTS)
    return value


def metrics_row(line: str) -> dict[str, Any] | None:
    """One row of metrics.jsonl with its numbers; None for a line that is not one."""
    try:
        row = parse_object(line)
    except DamagedFile:
        return None
    if not is_count(row.get("step", 0)) or not is_time(row.get("time", 0)):
        return None
    return {key: value for key, value in row.items() if is_measure(value)}


def config(text: str) -> dict[str, Any]:
    """A checked config.yaml. Raises DamagedFile."""
    try:
        value = yaml_reader.scalar(text)
    except (ValueError, RecursionError):
        raise DamagedFile("not YAML") from None
    if not isinstance(value, dict):
        raise DamagedFile("not a configuration")
    check_size(value)
    return value
