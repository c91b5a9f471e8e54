#!/usr/bin/env python3
"""Turn raw files, a document collection or generated examples into training rows.

    python scripts/data_prep.py --input data/raw                  the plan: what it would write
    python scripts/data_prep.py --input data/raw --confirm        write data/processed/
    python scripts/data_prep.py --collection pdf_docs --top-k 3 --max-samples 1000 --confirm
    python scripts/data_prep.py --confirm                         from generated weather dialogues

Writes train_sft.jsonl, val_sft.jsonl (and train_preference.jsonl, val_preference.jsonl where the
input has preference rows), then manifest.json with SHA-256, rows, and what was dropped and why.
Which recipe reads which file, and every threshold: configs/data_config.yaml, docs/DATA.md.
A broken row stops everything before anything is written; --set bad_rows=drop goes on without it.
Generated rows replace those of a real source only where --recipe or --out-dir is given.

Exit codes: 0 good, 1 bad rows or nothing to read, 2 called or configured wrongly.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from corpus import output
from kit import console

SHOWN = 100  # lines of bad rows on the terminal; --rejects FILE has them all


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
    p.add_argument("--config", default="data_config.yaml", help="a file, or a name in configs/")
    p.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides",
                   help="replace one value of data_config.yaml; may be repeated")  # fmt: skip
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
    if result.bad and config.bad_rows == "fail":
        raise _refusal(result, args)
    files = output.contents(result.train, result.val, config.preference.also_sft)
    given = {"path": _shown(args.input), "collection": args.collection}
    manifest = output.manifest(result, config, files, given)
    if args.confirm:
        output.write(out, files, manifest)
    _report(result, manifest, out, args)
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
    from corpus.sources import listing

    return given and listing.shown(Path(given).name)


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
    """Run the pipeline over what the arguments name; returns its Result."""
    from corpus import pipeline
    from corpus.sources import recipes

    line = pipeline.Pipeline(config)
    if args.collection:
        line.add(*recipes.collection(config, args.recipe, args.store))
        return line.finish()
    if not args.input:
        line.add(*recipes.generated(config, args.recipe))
        return line.finish()
    root = Path(args.input)
    sources, skipped = recipes.find_sources(root, config, args.recipe, without=out)
    for reject in skipped:
        console.warn(f"{reject.line()}: not read")
    line.result.rejects += skipped
    total = sum(s.path.stat().st_size for s in sources)
    with console.progress(total, "reading", unit="B", unit_scale=True, delay=2) as bar:
        for source in sources:
            console.note(f"    {source.name}: recipe {source.recipe_name}")
            line.add(source.name, source.recipe_name, recipes.rows(source, config))
            bar.update(source.path.stat().st_size)
    return line.finish()


def _refusal(result, args) -> console.Problem:
    """Name the bad rows, a line each, and give the error that counts them."""
    for reject in result.bad[:SHOWN]:
        print(reject.line(), file=sys.stderr)
    if len(result.bad) > SHOWN:
        print(f"… and {len(result.bad) - SHOWN} more: --rejects FILE keeps all", file=sys.stderr)
    counts = Counter(r.reason for r in result.bad)
    said = ", ".join(f"{reason} {n}" for reason, n in counts.most_common())
    if args.json:
        lines = [r.line() for r in result.bad]
        print(json.dumps({"status": "failed", "bad": dict(counts), "problems": lines}))
    return console.Problem(
        f"bad rows: {len(result.bad)} ({said}); nothing was written",
        "mend them, or leave them out with --set bad_rows=drop",
    )


def _report(result, manifest: dict[str, Any], out: Path, args) -> None:
    from kit import paths

    status = "written" if args.confirm else "planned"
    if args.json:
        print(json.dumps({"status": status, "out_dir": str(out)} | manifest, ensure_ascii=False))
        return
    for name, tally in result.tallies.items():
        print(f"{name}: {tally.read} read, {tally.kept} kept")
        for what, counts in (("dropped", tally.dropped), ("mended", tally.mended)):
            said = ", ".join(f"{reason} {n}" for reason, n in counts.most_common() if n)
            if said:
                print(f"  {what}: {said}")
    if manifest["length"].get("rows"):
        print(_length_line(manifest["length"]))
    for name, facts in manifest["files"].items():
        size = console.size(facts["bytes"])
        print(f"{status}  {paths.show(out / name)}  {facts['rows']} rows  {size}")
    if not args.confirm:
        console.note("This was the plan. Write it with --confirm.")


def _length_line(n: dict[str, Any]) -> str:
    return (
        f"tokens ({n['method']}): median {n['median']}, 95 % {n['p95']}, longest {n['longest']}; "
        f"{n['longer_than_max_length']} rows above max_length {n['max_length']}"
    )


if __name__ == "__main__":
    console.run(main)
