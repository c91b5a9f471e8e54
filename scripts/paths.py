#!/usr/bin/env python3
"""Print where things lie on this machine, as every command sees it.

    python scripts/paths.py              all of them, one `name  path` a line
    python scripts/paths.py adapters     one, alone: cd "$(python scripts/paths.py adapters)"
    python scripts/paths.py --json       one object

Reads configs/paths_config.json. TANDEM_WORKDIR moves all relative folders under another root
(a rehearsal does that). For host and remote_dir the variable HOST or REMOTE_DIR holds, then
TANDEM_HOST or TANDEM_REMOTE_DIR, then the file.

Exit codes: 0 good, 2 unknown name or a broken configuration file.
"""

from __future__ import annotations

import difflib
import json

from kit import console, paths


def everything() -> dict[str, str]:
    """Every name this command answers to."""
    config = paths.load()
    named = {name: str(paths.workdir() / where) for name, where in config["folders"].items()}
    fixed = {
        "root": str(paths.ROOT),
        "workdir": str(paths.workdir()),
        "environment": paths.environment(),
    }
    return fixed | named | {"host": config["host"], "remote_dir": config["remote_dir"]}


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("name", nargs="?", help="print this one alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    values = everything()
    if args.name:
        if args.name not in values:
            closest = difflib.get_close_matches(args.name, values, 1, 0)[0]
            raise console.Misuse(f"nothing is named {args.name!r}", f"did you mean {closest}?")
        values = {args.name: values[args.name]}
    if args.json:
        print(json.dumps(values))
    elif args.name:
        print(values[args.name])
    else:
        width = max(map(len, values))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in values.items()))
    return console.GOOD


if __name__ == "__main__":
    console.run(main)
