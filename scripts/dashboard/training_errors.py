"""How the training API says no: one line, an HTTP status, and a word that programs compare."""

from __future__ import annotations

from typing import Any

from kit import console


class Refused(console.Problem):
    """A request that is not done. `status`: HTTP's; `reason`: a word for programs."""

    def __init__(self, status: int, reason: str, text: str, remedy: str = "", **facts: Any):
        self.status, self.reason, self.facts = status, reason, facts
        super().__init__(text, remedy)


def status_of(problem: console.Problem) -> tuple[int, str | None]:
    """(HTTP status, reason) of any Problem: 400 for a wrong request, else 500."""
    if isinstance(problem, Refused):
        return problem.status, problem.reason
    return (400, "misuse") if problem.code == console.MISUSED else (500, "failed")
