"""The one report format: checks are values, one table prints them, the worst decides the exit code.

checks = [Check("disk /", "warn", "24 GB free", "free 6 GB: du -sh ~/.cache/huggingface")]
sys.exit(report(checks, as_json=args.json))
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from kit import console

STATUSES = ("ok", "skip", "warn", "fail")  # from best to worst
_COLOURS = {"ok": "32", "skip": "2", "warn": "33", "fail": "31"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One fact that was looked at. `found`: what is there; `fix`: the command that repairs it."""

    name: str
    status: str
    found: str
    fix: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {STATUSES}")
        if self.status in ("warn", "fail") and not self.fix:
            raise ValueError(f"the check {self.name!r} has status {self.status} and no fix")


def failed(name: str, problem: console.Problem) -> Check:
    """The failed check that a Problem makes: its text is what was found, its remedy the fix."""
    return Check(name, "fail", problem.text, problem.remedy or "see the line above")


def worst(checks: list[Check]) -> str:
    """The worst status among `checks`, 'ok' for none."""
    return max((c.status for c in checks), key=STATUSES.index, default="ok")


def exit_code(checks: list[Check]) -> int:
    """1 if any check failed, else 0: a warning does not stop anybody."""
    return console.FAILED if worst(checks) == "fail" else console.GOOD


def table(checks: list[Check], coloured: bool = False) -> str:
    """`ok    subject  fact` lines, with the remedy under each warn and FAIL."""
    width = max((len(c.name) for c in checks), default=0)
    lines = []
    for c in checks:
        mark = f"{c.status.upper() if c.status == 'fail' else c.status:<4}"
        if coloured:
            mark = f"\033[{_COLOURS[c.status]}m{mark}\033[0m"
        lines.append(f"{mark}  {console.printable_line(f'{c.name:<{width}}  {c.found}')}")
        if c.status in ("warn", "fail"):
            lines.append(console.printable_line(f"{'':6}{'':<{width}}  fix: {c.fix}"))
    return "\n".join(lines)


def summary(checks: list[Check]) -> str:
    """`12 ok, 1 warn, 0 fail, 2 skip`"""
    counts = {s: sum(c.status == s for c in checks) for s in STATUSES}
    return ", ".join(f"{counts[s]} {s}" for s in ("ok", "warn", "fail", "skip"))


def report(checks: list[Check], as_json: bool = False, **extra: Any) -> int:
    """Print the checks on stdout, as a table or as one JSON object, and return the exit code.

    `extra` keys join the JSON object; the table leaves them out.
    """
    if as_json:
        body = {"status": worst(checks), "checks": [dataclasses.asdict(c) for c in checks]}
        print(json.dumps(body | extra, ensure_ascii=False))
    else:
        print(table(checks, console.colour(sys.stdout)))
        print(summary(checks))
    return exit_code(checks)
