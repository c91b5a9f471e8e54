#!/usr/bin/env python3
"""Rehearse the configured training at full size, here: random weights, real rows, batch, length.

    python scripts/rehearse_full.py --source data/synthetic/full-model
    python scripts/rehearse_full.py --gpu "RTX 4090"      without a GPU: a stand-in with 24 GB

Makes a model of the configured size from its config.json alone (no download, no disk), takes ten
steps of the longest rows with the configured settings, stops at a checkpoint, resumes, evaluates.
`make rehearse HOST=gpu1 FULL=1` runs it on the host. Everything is below TANDEM_WORKDIR.

Exit codes: 0 good, 1 it failed or cannot run here, 2 called or configured wrongly.
"""

from __future__ import annotations

import json
from pathlib import Path

from config import loader, options
from kit import console, paths


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    options.add_config(parser, "training_config.yaml")
    parser.add_argument("--source", type=Path, help="a folder with the model's config.json")
    parser.add_argument(
        "--home",
        type=Path,
        action="append",
        default=[],
        help="a checkout with models/",
    )
    parser.add_argument("--gpu", metavar="NAME", help="the stand-in's card: 'RTX 4090', '24 GB'")
    parser.add_argument("--seconds", type=float, default=900, help="the longest it may train")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    settings = loader.load(args.config, args.overrides, kind="training_config")
    from workflow import full_rehearsal, full_report

    facts = full_rehearsal.rehearse(
        full_rehearsal.Inputs(
            settings, args.config, args.overrides, args.source, (*args.home, paths.ROOT),
            args.gpu, args.seconds,
        )
    )  # fmt: skip
    print(json.dumps(facts) if args.json else "\n".join(full_report.lines(facts, None)))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
