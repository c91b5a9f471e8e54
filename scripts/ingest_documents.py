#!/usr/bin/env python3
"""Put documents into a Chroma collection, in passages with source, title and page.

    python scripts/ingest_documents.py data/raw                   into the collection pdf_docs
    python scripts/ingest_documents.py a.pdf b.html --collection law
    python scripts/ingest_documents.py --search "water rights"    the three nearest passages
    python scripts/data_prep.py --collection pdf_docs --confirm   next: rows from it

Reads PDF, HTML, plain and Gutenberg text, WikiExtractor files. A file whose content is already
there is left alone; a changed one replaces its passages. Every file is reported, one that gives
no text too. Passage length, overlap and embedder: section `documents` of configs/data_config.yaml.

Exit codes: 0 good, 1 a file could not be read, 2 called or configured wrongly.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from kit import console, publish
from kit.report import Check, report


def parser() -> console.ArgumentParser:
    p = console.ArgumentParser(__doc__)
    p.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, or folders read with all below them"
    )
    p.add_argument("--collection", metavar="NAME", help="default: reading.collection (pdf_docs)")
    p.add_argument(
        "--store", metavar="DIR", help="folder of the collections (default: data/chroma)"
    )
    p.add_argument("--embedder", metavar="NAME", help="hashing, or a folder with a model")
    p.add_argument("--search", metavar="TEXT", help="print the passages nearest to TEXT instead")
    p.add_argument(
        "--rejects", metavar="FILE", help="write what gave no text, with reasons (JSON Lines)"
    )
    p.add_argument("--config", default="data_config.yaml", help="a file, or a name in configs/")
    p.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                   help="replace one value of data_config.yaml; may be repeated")  # fmt: skip
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if bool(args.paths) == bool(args.search):
        raise console.Misuse("give files or folders to read, or --search TEXT", "see --help")
    from config import loader

    given = {"collection": args.collection, "embedder": args.embedder}
    named = [f"documents.{key}={value}" for key, value in given.items() if value]
    config = loader.load(args.config, args.overrides + named, kind="data_config")
    if args.search:
        return _search(args, config)
    files, others = _files(args.paths)
    from corpus import output
    from corpus.documents import store

    output.check_file("--rejects", args.rejects)
    target = store.Store(config.documents, args.store, create=True)
    checks = [Check(name, "warn", f"not read: {why}", "name files instead") for name, why in others]
    rejects: list = []
    with console.progress(len(files), "ingesting", unit="files", delay=2) as bar:
        for source, path in files:
            checks.append(_ingest(source, path, target, config, rejects))
            bar.update()
    if args.rejects:
        output.write_rejects(Path(args.rejects), rejects)
    facts = {
        "collection": target.name,
        "passages": target.count(),
        "embedder": target.embedder.identity,
    }
    if not args.json:
        console.note(
            f"{target.name} in {target.folder}: {target.count()} passages, {facts['embedder']}"
        )
    return report(checks, args.json, **facts)


def _files(given: list[str]) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """(source name, path) of every file that is not hidden, (name, why) of links and pipes.

    Raises Misuse for an empty or missing path.
    """
    from corpus.sources import listing

    if "" in given:
        raise console.Misuse("an empty PATH", "name a file or a folder (RAW= of make)")
    files, others = [], []
    for root in map(Path, given):
        if not root.exists():
            raise console.Misuse(f"{root}: no such file or folder", "check the path")
        if root.is_file():
            files.append((listing.shown(root.name), root))
            continue
        if not root.is_dir():
            raise console.Misuse(f"{root}: no regular file", "name a file or a folder")
        read, passed = listing.below(root)

        def name(path: Path, root: Path = root) -> str:
            return listing.shown(f"{root.resolve().name}/{path.relative_to(root).as_posix()}")

        files += [(name(path), path) for path in read]
        others += [(name(path), why) for path, why in passed]
    if not files:
        said = "; ".join(f"{name}: {why}" for name, why in others[:3])
        there = f"no files there ({said})" if said else "no files there"
        raise console.Problem(f"{', '.join(given)}: {there}", "put your documents there")
    return files, others


def _ingest(source: str, path: Path, target, config, rejects: list) -> Check:
    """Read one file into the collection and say what became of it."""
    from corpus import cleaning
    from corpus.documents import passages, reading

    settings, cleaner = config.documents, cleaning.Cleaner(config.cleaning)
    sha = publish.sha256(path)
    chunking = f"{settings.chunk_chars}/{settings.chunk_overlap}"
    stored = target.has(sha, chunking)
    if stored:
        return Check(source, "ok", "unchanged" if stored == source else f"same content as {stored}")
    kind = reading.kind_of(path)
    if kind is None:
        fix = "convert it to PDF, HTML or .txt; tables and JSON: data_prep.py --input"
        return Check(source, "warn", "not read: neither PDF, HTML nor text", fix)
    made, lost, pages = [], [], 0
    for item in reading.read(path, source, kind):
        if isinstance(item, reading.Reject):
            lost.append(item)
            continue
        pages += 1
        text = cleaner.text(item.text, Counter())
        cut = passages.passages(text, settings.chunk_chars, settings.chunk_overlap)
        made += [(text, item.title, item.page or 0) for text in cut]
    rejects += lost
    if made:
        target.replace(source, sha, chunking, made)
    return _verdict(source, kind, pages, len(made), lost)


def _verdict(source: str, kind: str, pages: int, passages: int, lost: list) -> Check:
    broken = [r for r in lost if r.bad]
    if broken and not passages:
        return Check(source, "fail", broken[0].reason, broken[0].detail)
    if not passages:
        return Check(source, "warn", lost[0].reason, lost[0].detail)
    unit = "page" if kind == "pdf" else "document"
    found = f"{_many(pages, unit)}, {_many(passages, 'passage')}"
    counts = Counter(r.reason for r in lost)
    found += "".join(f"; {n} × {reason}" for reason, n in counts.items())
    return Check(source, "warn", found, broken[0].detail) if broken else Check(source, "ok", found)


def _many(n: int, unit: str) -> str:
    return f"{n} {unit}" + ("s" if n != 1 else "")


def _search(args, config) -> int:
    from corpus.documents import store

    found = store.Store(config.documents, args.store).search([args.search], config.documents.top_k)[
        0
    ]
    if args.json:
        print(json.dumps({"passages": [p._asdict() for p in found]}, ensure_ascii=False))
    else:
        for p in found:
            page = f", page {p.page}" if p.page else ""
            print(f"{p.title}{page} ({p.source})\n{p.text}\n")
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
