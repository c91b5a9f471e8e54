"""The files of a folder that a command was given: those to read, and those passed over."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PAPERS = ("license", "licence", "copying", "notice", "changelog", "citation", "contributing",
           "code_of_conduct", "security", "authors")  # fmt: skip
_CARDS = ("readme", "dataset_card", "datasheet", "datasetcard", "data_card", "datacard",
          "model_card", "modelcard")  # fmt: skip
_LICENCE = re.compile(r"(LICEN[CS]E|COPYING)(?=[^A-Za-z])")  # LICENSE-CODE.txt
_OF_PROGRAMS = ("requirements.txt", "constraints.txt", "robots.txt", "CMakeLists.txt")
_ROWS = frozenset(
    [".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".zst", ".gz"]
)
SIDES = {
    "test": "test", "tests": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "heldout": "test", "holdout": "test", "testset": "test", "testdata": "test", "evalset": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "devset": "validation", "valset": "validation", "validset": "validation",
}  # fmt: skip
_OF_A_FOLDER = {"data", "set", "split", "files", "rows", "raw", "json", "jsonl", "csv", ""}
_FRONT_MATTER = re.compile(
    rb"\A\xef?\xbb?\xbf?---\r?\n(?:.*\n){0,400}?(?:dataset_info|configs|task_categories|size_categories|"
    rb"annotations_creators|license|language|pretty_name|tags):",
)


def below(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The regular files below `root`, sorted, and (path, why) of links, pipes and their like.

    Hidden ones are in neither. Links to folders are not followed: they may lead round in a circle.
    """
    files, others = [], []
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.is_file():
            files.append(path)
        elif why := irregular(path):
            others.append((path, why))
    return files, others


def irregular(path: Path) -> str:
    """Why `path` is never opened: a link to a folder or to nothing, a pipe; '' for the others."""
    if path.is_symlink() and not path.is_file():
        return "a link to a folder, not followed" if path.is_dir() else "a link to nothing"
    return "" if path.is_dir() or path.is_file() else "no regular file"


def about_the_data(path: Path, files: list[Path]) -> str:
    """Why a file describes the others and is no training text: a card, a licence; '' for others.

    A README is a card where it begins as the hub's do, or rows lie in the same folder or below.
    """
    stem = path.stem.casefold().replace("-", "_")
    if path.suffix.lower() not in ("", ".md", ".txt", ".rst", ".markdown", ".cff"):
        return ""
    if stem in _PAPERS:
        return f"a {stem} file, not training text"
    if licence := _LICENCE.match(path.name):
        return f"a {licence[1].casefold()} file, not training text"
    if path.name in _OF_PROGRAMS:
        return "a program's file, not training text"
    if stem not in _CARDS and not re.match(r"readme(?![a-z])", stem):
        return ""
    with open(path, "rb") as f:
        card = _FRONT_MATTER.match(f.read(1 << 16))
    rows = any(p.suffix.lower() in _ROWS and path.parent in p.parents for p in files)
    return "a data-set card, not training text" if card or rows else ""


def held_out(path: Path, files: list[Path], table: bool) -> str:
    """'test' or 'validation' where the file's name or folder says so, as on the hub; else ''.

    `table`: it holds rows. Of other texts only a name such as test.txt or wiki.valid.txt counts.
    """
    common = Path(os.path.commonpath([p.parent for p in files]))
    folders = [part.casefold() for part in path.relative_to(common).parts[:-1]]
    words = re.split(r"[^a-z]+", path.name.casefold().split(".json")[0].split(".csv")[0])
    if not table:
        words = re.split(r"[^a-z]+", path.stem.casefold())[-1:]
    if "held" in words and "out" in words:
        return "test"
    for folder in folders:  # "test", "test_data", "split=test"; not "unit_tests"
        parts = [part for part in re.split(r"[^a-z]+", folder) if part not in _OF_A_FOLDER]
        words += parts if len(parts) == 1 else []
    return next((SIDES[word] for word in words if word in SIDES), "")
