"""Read files into a passage store and report, as a Check each, what became of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from corpus import cleaning
from corpus.documents import passages, reading
from corpus.rows import Reject
from corpus.sources import source_files
from kit import console, publish
from kit.report import Check

Files = list[tuple[str, Path]]


def files_of(given: list[str]) -> tuple[Files, list[tuple[str, str]]]:
    """(source name, path) of every file that is not hidden, (name, why) of links and pipes.

    Raises Misuse for an empty or missing path, Problem where there is no file.
    """
    if "" in given:
        raise console.Misuse("an empty PATH", "name a file or a folder (RAW= of make)")
    files: Files = []
    others: list[tuple[str, str]] = []
    for root in map(Path, given):
        if not root.exists():
            raise console.Misuse(f"{root}: no such file or folder", "check the path")
        if root.is_file():
            files.append((console.printable_name(root.name), root))
            continue
        if not root.is_dir():
            raise console.Misuse(f"{root}: no regular file", "name a file or a folder")
        below, irregular = source_files.below(root)
        files += [(_source_name(path, root), path) for path in below]
        others += [(_source_name(path, root), why) for path, why in irregular]
    if not files:
        listed = "; ".join(f"{name}: {why}" for name, why in others[:3])
        text = f"no files there ({listed})" if listed else "no files there"
        raise console.Problem(f"{', '.join(given)}: {text}", "put your documents there")
    return files, others


def _source_name(path: Path, root: Path) -> str:
    return console.printable_name(f"{root.resolve().name}/{path.relative_to(root).as_posix()}")


class Ingestion:
    """Stores files, one at a time. `rejects` collects what gave no text.

    target: passage_store.PassageStore; config: config.schemas.data.DataConfig.
    """

    def __init__(self, target, config):
        self.target, self.settings = target, config.documents
        self.cleaner = cleaning.Cleaner(config.cleaning)
        self.rejects: list[Reject] = []

    def add(self, source: str, path: Path) -> Check:
        """Store the passages of one file in place of its former ones."""
        settings = self.settings
        sha = publish.sha256(path)
        chunking = f"{settings.chunk_chars}/{settings.chunk_overlap}"
        stored = self.target.has(sha, chunking)
        if stored:
            text = "unchanged" if stored == source else f"same content as {stored}"
            return Check(source, "ok", text)
        kind = reading.kind_of(path)
        if kind is None:
            fix = "convert it to PDF, HTML or .txt; tables and JSON: data_prep.py --input"
            return Check(source, "warn", "not read: neither PDF, HTML nor text", fix)
        made, rejects, pages = [], [], 0
        for item in reading.read(path, source, kind):
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            pages += 1
            text = self.cleaner.text(item.text, Counter())
            pieces = passages.passages(text, settings.chunk_chars, settings.chunk_overlap)
            made += [(piece, item.title, item.page or 0) for piece in pieces]
        self.rejects += rejects
        if made:
            self.target.replace(source, sha, chunking, made)
        return _verdict(source, kind, pages, len(made), rejects)


def _verdict(source: str, kind: str, pages: int, stored: int, rejects: list[Reject]) -> Check:
    broken = [r for r in rejects if r.bad]
    if broken and not stored:
        return Check(source, "fail", broken[0].reason, broken[0].detail)
    if not stored:
        return Check(source, "warn", rejects[0].reason, rejects[0].detail)
    unit = "page" if kind == "pdf" else "document"
    text = f"{_many(pages, unit)}, {_many(stored, 'passage')}"
    counts = Counter(r.reason for r in rejects)
    text += "".join(f"; {n} × {reason}" for reason, n in counts.items())
    return Check(source, "warn", text, broken[0].detail) if broken else Check(source, "ok", text)


def _many(n: int, unit: str) -> str:
    return f"{n} {unit}" + ("s" if n != 1 else "")
