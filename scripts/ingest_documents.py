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
from pathlib import Path

from config import options as config_options
from kit import console
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
    config_options.add_config(p, "data_config.yaml")
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
    from corpus import output
    from corpus.documents import ingestion, passage_store

    files, others = ingestion.files_of(args.paths)
    output.check_file("--rejects", args.rejects)
    target = passage_store.PassageStore(config.documents, args.store, create=True)
    line = ingestion.Ingestion(target, config)
    checks = [Check(name, "warn", f"not read: {why}", "name files instead") for name, why in others]
    with console.progress(len(files), "ingesting", unit="files", delay=2) as bar:
        for source, path in files:
            checks.append(line.add(source, path))
            bar.update()
    if args.rejects:
        output.write_rejects(Path(args.rejects), line.rejects)
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


def _search(args, config) -> int:
    from corpus.documents import passage_store

    target = passage_store.PassageStore(config.documents, args.store)
    (nearest,) = target.search([args.search], config.documents.top_k)
    if args.json:
        print(json.dumps({"passages": [p._asdict() for p in nearest]}, ensure_ascii=False))
    else:
        for p in nearest:
            page = f", page {p.page}" if p.page else ""
            print(f"{p.title}{page} ({p.source})\n{p.text}\n")
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
