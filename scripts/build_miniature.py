#!/usr/bin/env python3
"""Build a tiny model of the configured model's family, for rehearsals and tests. No download.

    python scripts/build_miniature.py --data data/processed/train_sft.jsonl --out models/miniature
    python scripts/build_miniature.py --like mistral --data rows.jsonl --out models/mini --steps 300

The architecture is that of the model's config.json with layers of 64, and the chat template is the
model's own; of a model that is not here, its name tells the architecture. The tokenizer is trained
on the rows; the base is trained on the rows with few and shuffled answers, so that it knows
the language and the format and leaves the task to LoRA (on a random base LoRA hardly learns: its
lm_head is frozen).

Exit codes: 0 good, 1 the rows cannot be used, 2 called wrongly.
"""

from __future__ import annotations

import json
from pathlib import Path

from base_model import likeness, miniature
from config import loader
from corpus.row_files import RowFile
from kit import console


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="JSONL rows to learn from")
    parser.add_argument("--out", required=True, type=Path, help="the model folder to write")
    parser.add_argument("--like", help="a model folder, or an architecture: llama, phi3, qwen3 …")
    parser.add_argument(
        "--config", default="training_config.yaml", help="says which model to imitate"
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="training steps of the base (8 rows)"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.out.exists() and not (args.out / "miniature.json").exists():
        raise console.Misuse(
            f"{args.out} is not a miniature", "choose another --out: it stays as it is"
        )
    rows = [(row.messages, row.tools) for row in RowFile(args.data)]
    if not rows:
        raise console.Problem(f"{args.data}: no rows", "make data writes rows")
    like = likeness.of(args.like, loader.load(args.config))
    facts = miniature.build(rows, like, args.out, args.steps, args.seed)
    if facts.get("note"):
        console.warn(facts["note"])
    if args.json:
        print(json.dumps(facts))
    else:
        print(
            f"{args.out}: {facts['family']}, {facts['parameters']:,} parameters, "
            f"base loss {facts['loss_before']:.2f} -> {facts['loss_after']:.2f}"
        )
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
