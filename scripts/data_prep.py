#!/usr/bin/env python3
"""Turn raw files, a document collection or generated examples into training rows.

    python scripts/data_prep.py --input data/raw                  the plan: what it would write
    python scripts/data_prep.py --input data/raw --confirm        write data/processed/
    python scripts/data_prep.py --collection pdf_docs --top-k 3 --max-samples 1000 --confirm
    python scripts/data_prep.py --confirm                         from generated weather dialogues

Writes train_sft.jsonl, val_sft.jsonl (and train_preference.jsonl, val_preference.jsonl where the
input has preference rows), then manifest.json with SHA-256, rows, and what was dropped and why.
Which recipe reads which file, and every threshold: configs/data_config.yaml, docs/DATA.md.
A broken row stops everything before anything is written; --set bad_rows=drop continues without it.
Generated rows replace those of a real source only where --recipe or --out-dir is given.

Exit codes: 0 good, 1 bad rows or nothing to read, 2 called or configured wrongly.
"""

from __future__ import annotations

from pathlib import Path

from config import options as config_options
from corpus import output
from kit import console


def parser() -> console.ArgumentParser:
    p = console.ArgumentParser(__doc__)
    p.add_argument(
        "--input", metavar="PATH", help="a file, or a folder that is read with all below it"
    )
    p.add_argument(
        "--recipe", metavar="NAME", help="of data_config.yaml; default: the first that fits a file"
    )
    p.add_argument(
        "--collection", metavar="NAME", help="make rows of what ingest_documents.py put there"
    )
    p.add_argument("--top-k", type=int, metavar="N", help="passages retrieved for each question")
    p.add_argument(
        "--store", metavar="DIR", help="folder of the collections (default: data/chroma)"
    )
    p.add_argument("--out-dir", metavar="DIR", help="default: data/processed")
    p.add_argument(
        "--max-samples", type=int, metavar="N", help="keep at most N rows, drawn by seed"
    )
    p.add_argument("--seed", type=int, metavar="N", help="of sample and split")
    p.add_argument(
        "--rejects", metavar="FILE", help="write what is left out, with reasons (JSON Lines)"
    )
    config_options.add_config(p, "data_config.yaml")
    p.add_argument("--confirm", action="store_true", help="write; without it: only the plan")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.input and args.collection:
        raise console.Misuse("--input and --collection together", "give one of them")
    if args.input == "":
        raise console.Misuse("--input is empty", "give a file or a folder (RAW= of make)")
    output.check_file("--rejects", args.rejects)
    config = _config(args)
    out = Path(args.out_dir) if args.out_dir else _default_out()
    if not (args.input or args.collection or args.recipe or args.out_dir):
        _spare(out, args.confirm)
    result = _prepare(args, config, out)
    if args.rejects:
        output.write_rejects(Path(args.rejects), result.rejects)
    from corpus import summary

    if result.bad and config.bad_rows == "fail":
        raise summary.refusal(result, args.json)
    if shortage := result.shortage(config):
        raise shortage
    files = output.contents(result.train, result.val, config.preference.also_sft)
    given = {"path": _shown(args.input), "collection": args.collection}
    manifest = output.manifest(result, config, files, given)
    if args.confirm:
        output.write(out, files, manifest)
    summary.show(result, manifest, out, args.confirm, args.json)
    return console.GOOD


def _spare(out: Path, confirm: bool) -> None:
    """Refuse to put generated rows over those of a real source, which nobody named this time.

    Whoever names --out-dir or --recipe has said what is to happen.
    """
    source = output.source(out)
    if source is None:
        return
    text = f"{out} holds rows of {source}, and neither --input nor --collection is given"
    remedy = "give --input PATH (RAW= of make), or --recipe weather for generated rows instead"
    if confirm:
        raise console.Misuse(text, remedy)
    console.warn(f"{text}: --confirm will refuse; {remedy}")


def _shown(given: str | None) -> str | None:
    return given and console.printable_name(Path(given).name)


def _config(args):
    from config import loader

    given = {"max_samples": args.max_samples, "seed": args.seed, "documents.top_k": args.top_k,
             "documents.collection": args.collection}  # fmt: skip
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    return loader.load(args.config, args.overrides + flags, kind="data_config")


def _default_out() -> Path:
    from kit import paths

    return paths.folder("data_processed")


def _prepare(args, config, out: Path):
    """The PreparedRows of what the arguments name."""
    from corpus import assembly

    if args.collection:
        return assembly.of_collection(config, args.recipe, args.store)
    if args.input:
        return assembly.of_files(Path(args.input), config, args.recipe, without=out)
    return assembly.of_generated(config, args.recipe)


if __name__ == "__main__":
    console.run(main)
