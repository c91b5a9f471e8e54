"""Engines: how a job is submitted, looked at and ended, one file each (jobs/contract.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

QUEUED, RUNNING, ENDED, GONE = "queued", "running", "ended", "gone"


@dataclasses.dataclass(frozen=True)
class JobState:
    """Where a job is. `code`: its exit code once it ended; `why`: what the engine said."""

    kind: str
    code: int | None = None
    why: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.kind in (ENDED, GONE)


def engine_of(name: str) -> Any:
    """The engine's module: submit(host, job), state(host, job), cancel(host, job, now)."""
    if name == "slurm":
        from jobs.engines import slurm

        return slurm
    if name == "sky":
        from jobs.engines import sky

        return sky
    from jobs.engines import shell

    return shell
