#!/usr/bin/env python3
"""Print the effective configuration, or every error in it at once.

    python scripts/config_loader.py                                  configs/training_config.yaml
    python scripts/config_loader.py --config configs/eval.yaml --json
    python scripts/config_loader.py --set training.learning_rate=1e-4 --set lora.r=8
    TANDEM_TRAINING__MAX_STEPS=10 python scripts/config_loader.py

Precedence: the file < its `environments.<local|remote>` section < TANDEM_SECTION__KEY variables
< --set. Unknown keys, duplicate keys and wrong types are errors with file, line and nearest key.

Exit codes: 0 good, 2 the configuration is wrong.
"""

from __future__ import annotations

import json
import sys

from config import loader, options
from kit import console


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    options.add_config(parser, "training_config.yaml")
    parser.add_argument(
        "--kind",
        choices=sorted(loader.KINDS),
        help="what the file holds, where its name does not say",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    values = loader.load(args.config, args.overrides, kind=args.kind).model_dump()
    if args.json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        import yaml

        yaml.safe_dump(values, sys.stdout, sort_keys=False, allow_unicode=True)
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
