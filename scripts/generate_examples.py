#!/usr/bin/env python3
"""Write weather dialogues with tool calls: data to try the kit with, or to teach tool use.

    python scripts/generate_examples.py                          data/synthetic/weather_1000_7.jsonl
    python scripts/generate_examples.py --size 200 --seed 3 --out /tmp/dialogues.jsonl
    python scripts/data_prep.py --input data/synthetic --confirm

The tools are Open-Meteo's geocoding and forecast services, the replies have their real shapes;
the weather in them is made up. Rows fit the tool templates of Llama 3.1 (one call a turn) and
Mistral (call ids of nine letters and digits). The same size and seed give the same bytes.

Exit codes: 0 good, 1 the file could not be written, 2 called wrongly.
"""

from __future__ import annotations

import json
from pathlib import Path

from kit import console, jsonl, publish


class TrainingDataGenerator:
    """Weather dialogues for other programs:

    from generate_examples import TrainingDataGenerator
    path = TrainingDataGenerator().generate_dataset(size=1000)
    """

    def __init__(self, seed: int = 7):
        self.seed = seed

    def generate_dataset(self, size: int = 1000, out: str | Path | None = None) -> Path:
        """Write `size` rows to `out` (default: weather_SIZE_SEED.jsonl in data/synthetic)."""
        from corpus.weather import dialogues

        if not 1 <= size <= 100_000:
            raise console.Misuse(f"--size {size}", "give a number from 1 to 100000")
        path = Path(out) if out else _default(size, self.seed)
        jsonl.write(path, dialogues.dialogues(size, self.seed))
        return path


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--size", type=int, default=1000, metavar="N", help="rows (default 1000)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="another seed, other rows")
    parser.add_argument(
        "--out", metavar="FILE", help="default: weather_SIZE_SEED.jsonl in data/synthetic"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    from corpus import output

    output.check_file("--out", args.out)
    out = TrainingDataGenerator(args.seed).generate_dataset(args.size, args.out)
    rows = args.size
    if args.json:
        print(json.dumps({"file": str(out), "rows": rows, "sha256": publish.sha256(out)}))
    else:
        print(f"{out}  {rows} rows  {console.size(out.stat().st_size)}")
    return console.GOOD


def _default(size: int, seed: int) -> Path:
    from kit import paths

    return paths.folder("data_synthetic") / f"weather_{size}_{seed}.jsonl"


if __name__ == "__main__":
    console.run(main)
