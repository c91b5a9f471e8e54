"""A rented host on which nothing runs: since when, and what that cost."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from kit import console
from transfer.host import Host

GRACE_SECONDS = 900.0  # a host may be between two jobs for so long before it is named
CLOCK = 'echo "now $(date +%s)"\necho "up $(cut -d. -f1 /proc/uptime 2>/dev/null)"\nexit 0\n'


@dataclasses.dataclass(frozen=True)
class IdleHost:
    """One host that costs and does nothing."""

    host: str
    seconds: float
    cost: float

    def line(self) -> str:
        """`gpu1 idle 2 h 10 min, about $4.10`"""
        return f"{self.host} idle {console.duration(self.seconds)}, about ${self.cost:.2f}"


def look(host: Host, section: Any, rows: list[dict[str, Any]]) -> IdleHost | None:
    """Whether the host is paid for and has no job. section: its own in jobs.yaml, or None.

    A login node and a cloud bill by the job, not by the host.
    """
    if not section or not section.rate or section.engine in ("slurm", "sky"):
        return None
    if any(row["state"] in ("running", "queued", "damaged") for row in rows):
        return None  # of a damaged one nobody knows
    return judge(host.name, host.run(CLOCK, repeatable=True), section, rows)


def judge(name: str, clock: bytes, section: Any, rows: list[dict[str, Any]]) -> IdleHost | None:
    """The same from what CLOCK printed: idle since the last job's end, else since the boot."""
    facts = dict(line.partition(" ")[::2] for line in clock.decode(errors="replace").splitlines())
    numbers = {k: float(v) for k, v in facts.items() if re.fullmatch(r"\d{1,12}", v)}
    if "now" not in numbers:
        return None
    now = numbers["now"]
    since = [row["ended"] for row in rows if row.get("ended")]
    since += [now - numbers["up"]] if "up" in numbers else []
    seconds = now - max(since, default=now)
    if seconds < GRACE_SECONDS:
        return None
    return IdleHost(name, seconds, (section.rate + section.storage_rate) * seconds / 3600)
