"""The price of a run, measured again once it has made some steps: does its budget reach the end?"""

from __future__ import annotations

from typing import Any

from jobs.contract import Job
from kit import console

MEASURED_STEPS = 20  # after which a step's time is known


class Forecast:
    """Watches one life's steps; `line` says once what they mean for the budget."""

    def __init__(self, job: Job):
        self.job = job
        self.first: tuple[int, float] | None = None
        self.is_shown = False

    def line(self, status: dict[str, Any], spent: float, elapsed: float) -> str:
        """The forecast, '' before it is known and ever after.

        status: the run's; spent: seconds of the job's earlier lives; elapsed: of this one.
        """
        step, most = status.get("step"), status.get("max_steps")
        if self.is_shown or not _is_count(step) or not _is_count(most):
            return ""
        if self.first is None or step < self.first[0]:
            self.first = (step, elapsed)
        done = step - self.first[0]
        if done < MEASURED_STEPS:
            return ""
        self.is_shown = True
        each = (elapsed - self.first[1]) / done
        return self._words(each, step, most, spent + elapsed)

    def _words(self, each: float, step: int, most: int, used: float) -> str:
        whole = used + each * (most - step)
        text = f"measured: {each:.2f} s a step, about {console.duration(whole)} in all"
        if self.job.rate:
            text += f", about {self.job.rate * whole / 3600:.2f}"
        if not self.job.cap_seconds or whole <= self.job.cap_seconds:
            return text
        reached = step + int(max(0.0, self.job.cap_seconds - used) / max(each, 1e-9))
        more = (
            f"; BUDGET={1.1 * self.job.rate * whole / 3600:.2f} pays for all"
            if self.job.rate
            else ""
        )
        return (f"{text}; ITS LIMIT of {console.duration(self.job.cap_seconds)} ENDS IT, with a "
                f"checkpoint, at about step {reached} of {most}{more}")  # fmt: skip


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
