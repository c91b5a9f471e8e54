"""What lies in a folder that a command was given: the files to read, and what is passed over."""

from __future__ import annotations

from pathlib import Path


def shown(name: str) -> str:
    """A file name as messages and rows give it: on one line, what cannot be printed escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


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
