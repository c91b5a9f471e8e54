"""What a job may take and what it took: one time cap that every engine can keep, and the ledger."""

from __future__ import annotations

import math
from typing import Any

from jobs import contract
from kit import console

SHORTEST_SECONDS = 60.0  # Slurm counts no less
LONGEST_SECONDS = 3650 * 86400.0  # ten years: a limit that no engine refuses as a number


def cap_seconds(budget: float, rate: float, storage_rate: float, save_seconds: float) -> float:
    """Seconds that `budget` buys, less what the last checkpoint needs.

    budget: money for the job; rate, storage_rate: money an hour. Raises Misuse where a number is
    none, or the budget buys less than one checkpoint.
    """
    for name, value in (("BUDGET", budget), ("RATE", rate), ("storage_rate", storage_rate)):
        if not math.isfinite(value) or value < 0:
            raise console.Misuse(
                f"{name}={value} is no amount of money", "give a number such as 15"
            )
    if rate <= 0:
        raise console.Misuse(
            f"BUDGET={budget:g} cannot be kept without the price of an hour",
            "give RATE=1.90, or hosts.NAME.rate in configs/jobs.yaml",
        )
    seconds = 3600 * budget / (rate + storage_rate) - save_seconds
    if seconds < save_seconds:
        needed = 2 * save_seconds * (rate + storage_rate) / 3600
        raise console.Misuse(
            f"BUDGET={budget:g} buys {console.duration(3600 * budget / (rate + storage_rate))} at "
            f"{rate:g} an hour, less than a checkpoint needs",
            f"give at least BUDGET={needed:.2f}, or lower budget.save_seconds in configs/jobs.yaml",
        )
    return min(seconds, LONGEST_SECONDS)


def time_seconds(hours: float) -> float:
    """The seconds of a time limit. Misuse for one in which no run could save anything."""
    if 3600 * hours < SHORTEST_SECONDS:
        raise console.Misuse(
            f"--time {hours:g} is {console.duration(3600 * hours)}, and it counts hours",
            "give at least a minute: --time 0.02",
        )
    return min(3600 * hours, LONGEST_SECONDS)


def refuse_too_long(estimate_seconds: float | None, cap: float, rate: float) -> None:
    """Problem where the plan says that the run takes longer than its cap. None: not estimated."""
    if estimate_seconds and cap and estimate_seconds > cap:
        money = rate * estimate_seconds / 3600
        raise console.Problem(
            f"the run takes about {console.duration(estimate_seconds)} (about {money:.2f}) and its "
            f"budget ends after {console.duration(cap)}",
            f"give BUDGET={math.ceil(1.1 * money)}, or train less (training.max_steps)",
        )


def refuse_used_up(job: contract.Job, spent: float) -> None:
    """Problem where a job's earlier lives took its whole limit: another would stop at once."""
    if job.cap_seconds and spent >= job.cap_seconds:
        money = f" (about {job.rate * spent / 3600:.2f})" if job.rate else ""
        raise console.Problem(
            f"the job {job.name} ran {console.duration(spent)}{money} and its limit is "
            f"{console.duration(job.cap_seconds)}",
            "give a larger one for all its lives together: BUDGET=… RATE=…, or --time HOURS",
        )


def cost(lives: list[dict[str, Any]], running: dict[str, float] | None, rate: float) -> float:
    """Money that a job took so far: its ended lives and the one that runs, as it was last seen."""
    return rate * contract.seconds([*lives, *([running] if running else [])]) / 3600
