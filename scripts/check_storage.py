#!/usr/bin/env python3
"""Say whether the disks have room for data, base model, checkpoints and environments.

    python scripts/check_storage.py                   this checkout and the caches
    python scripts/check_storage.py --path /workspace would a checkout fit there?
    python scripts/check_storage.py --brief           the verdict, without counting what is there
    python scripts/check_storage.py --json            one object on stdout

Looks at every mount that matters (checkout, models, Hugging Face, uv and pip caches, TMPDIR):
free space, inodes, read-only. Warns below 30 GB free and fails below 20 GB where the checkout
and the base model lie; a base model that is already downloaded counts as room. Where a disk is
too full and another has room, the remedy says how to use the other one.

Exit codes: 0 good (warnings too), 1 a disk is too full or not writable, 2 called wrongly.
"""

from __future__ import annotations

from pathlib import Path

from checks import storage
from kit import console, paths
from kit.report import report


def amount(gb: float) -> str:
    """0.15 -> '150 MB', 15 -> '15 GB', as the breakdown prints it."""
    return f"{gb * 1000:g} MB" if gb < 0.5 else f"{gb:g} GB"


def span(low: float, high: float) -> str:
    """'150-300 MB', '15 GB', '0.5-1 GB'."""
    if low == high:
        return amount(low)
    number, unit = amount(low).split()
    return f"{number if amount(high).endswith(unit) else amount(low)}-{amount(high)}"


def breakdown(folders: dict[str, Path]) -> list[dict]:
    """Each part of BREAKDOWN with GB from and to, its folders and the bytes they hold now."""
    rows = []
    for name, low, high, keys in storage.BREAKDOWN:
        here = [folders[k] for k in keys if k in folders]
        bytes_now = sum(storage.used(p) for p in here)
        shown = [paths.show(p) for p in here]
        rows.append(
            {"what": name, "gb_from": low, "gb_to": high, "used": bytes_now, "folders": shown}
        )
    return rows


def in_use(root: Path, folders: dict[str, Path]) -> dict[str, dict]:
    """{name: path, bytes, complete} of every folder that fills up: the kit's own, then caches.

    `complete` is false where there are too many files to count in half a second.
    """
    places = {"environments": root / ".envs"} | folders | storage.caches()
    measured = {n: storage.measure(p, 0.5) for n, p in places.items() if n != "TMPDIR"}
    return {
        n: {"path": str(places[n]), "bytes": size, "complete": whole}
        for n, (size, whole) in measured.items()
    }


def print_breakdown(rows: list[dict]) -> None:
    """The table of what is needed and what is there."""
    print(f"{'needed':<33}in use now")
    for row in rows:
        range_ = span(row["gb_from"], row["gb_to"])
        now = console.size(row["used"]) if row["folders"] else ""
        print(f"  {row['what']:<16}{range_:<15}{now:<9}  {', '.join(row['folders'])}".rstrip())
    low, high = (sum(row[key] for row in rows) for key in ("gb_from", "gb_to"))
    print(f"  {'together':<16}{low:.0f}-{high:.0f} GB\n")


def print_use(use: dict[str, dict]) -> None:
    """Caches and environments that hold something, the largest first."""
    for name, place in sorted(use.items(), key=lambda item: -item[1]["bytes"]):
        size = console.size(place["bytes"])
        if place["bytes"] > 1 << 20:
            shown = size if place["complete"] else f"over {size}"
            print(f"  {name:<16}{'':<15}{shown:<9}  {paths.show(place['path'])}")
    print()


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--path", type=Path, metavar="DIR", help="a checkout here (default: this)")
    parser.add_argument("--warn-below", type=float, default=storage.WARN_BELOW, metavar="GB")
    parser.add_argument("--fail-below", type=float, default=storage.FAIL_BELOW, metavar="GB")
    parser.add_argument("--brief", action="store_true", help="only whether there is room")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    if args.path and not args.path.is_dir():
        raise console.Misuse(f"--path {args.path} is no folder", "name one that exists")
    root = (args.path or paths.ROOT).resolve()
    base = (args.path or paths.workdir()).resolve()
    folders = {name: base / where for name, where in paths.load()["folders"].items()}
    checks = storage.checks(root, folders, args.warn_below, args.fail_below)
    if args.brief:
        return report(checks, args.json)
    rows, use = breakdown(folders), in_use(root, folders)
    if not args.json:
        print_breakdown(rows)
        print_use({n: place for n, place in use.items() if n not in folders})
    return report(checks, args.json, breakdown=rows, use=use)


if __name__ == "__main__":
    console.run(main)
