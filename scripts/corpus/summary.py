"""What data_prep.py prints: counts by source, the bad rows, the files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from kit import console, paths

SHOWN = 100  # lines of bad rows on the terminal; --rejects FILE has them all


def refusal(result, as_json: bool) -> console.Problem:
    """Print a line for each bad row; returns the Problem that counts them.

    result: preparation.PreparedRows.
    """
    for reject in result.bad[:SHOWN]:
        print(reject.line(), file=sys.stderr)
    if len(result.bad) > SHOWN:
        print(f"… and {len(result.bad) - SHOWN} more: --rejects FILE keeps all", file=sys.stderr)
    counts = Counter(r.reason for r in result.bad)
    if as_json:
        lines = [r.line() for r in result.bad]
        print(json.dumps({"status": "failed", "bad": dict(counts), "problems": lines}))
    cause = result.bad[0].line() if len(result.bad) == 1 else _counted(counts)
    return console.Problem(
        f"bad rows: {len(result.bad)} ({cause}); nothing was written",
        "correct them, or leave them out with --set bad_rows=drop",
    )


def show(result, manifest: dict[str, Any], out: Path, written: bool, as_json: bool) -> None:
    """Print the plan, or what was written: for people, or as one JSON object."""
    status = "written" if written else "planned"
    if as_json:
        print(json.dumps({"status": status, "out_dir": str(out)} | manifest, ensure_ascii=False))
        return
    for name, tally in result.tallies.items():
        print(f"{name}: {tally.read} read, {tally.kept} kept")
        counted = {"dropped": tally.dropped, "mended": tally.mended, "keys not used": tally.unused}
        for what, counts in counted.items():
            if line := _counted(counts):
                print(f"  {what}: {line}")
    if manifest["length"].get("rows"):
        print(_length_line(manifest["length"]))
    for name, facts in manifest["files"].items():
        size = console.size(facts["bytes"])
        print(f"{status}  {paths.show(out / name)}  {facts['rows']} rows  {size}")
    if not written:
        console.note("This was the plan. Write it with --confirm.")


def _counted(counts: Counter) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.most_common() if n)


def _length_line(n: dict[str, Any]) -> str:
    return (
        f"tokens ({n['method']}): median {n['median']}, 95 % {n['p95']}, longest {n['longest']}; "
        f"{n['longer_than_max_length']} rows above max_length {n['max_length']}"
    )
