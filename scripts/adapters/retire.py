"""Retire a version: its number still loads it, @latest and ranges no longer choose it."""

from __future__ import annotations

from adapters.version_store import Version
from kit import clock, console, publish


def retire(version: Version, reason: str) -> None:
    """Mark a version as retired, with the reason and the time."""
    if not reason.strip():
        raise console.Misuse("retiring needs a reason", '--reason "answers in the wrong language"')
    when = clock.timestamp()
    publish.json_file(version.fact_file("retired"), {"reason": reason, "when": when})


def restore(version: Version) -> None:
    """Take the mark away."""
    if not version.retired:
        raise console.Misuse(f"{version.reference} is not retired", "nothing to undo")
    version.fact_file("retired").unlink()
