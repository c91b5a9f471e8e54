"""Rows that a chat template refuses: all of them are counted before a command ends.

refusals = TemplateRefusals()
for row in rows:
    with refusals.collected(row.where, remedy): render(…)
refusals.check(len(rows))       # Problem: the first one with its line, and how many there are
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from kit import console

SHOWN = 20  # refused rows that are printed; the rest is only counted


class TemplateRefusals:
    """What a template said to the rows that it refuses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.remedy = ""

    @contextlib.contextmanager
    def collected(self, where: str, remedy: Callable[[Exception], str]) -> Iterator[None]:
        """Note any error of the block as a refusal of the row `where`; the block ends there.

        A package that is missing is no refusal, and a template that does not come to an end
        is a Problem at once: the next row would take as long.
        """
        try:
            yield
        except ImportError:
            raise
        except console.Problem as problem:
            raise console.Problem(_line(where, problem), remedy(problem)) from None
        except Exception as error:  # a template's own refusal: order of roles, tool calls
            if not self.lines:
                self.remedy = remedy(error)
            self.lines.append(_line(where, error))

    def check(self, rows: int) -> None:
        """Problem where rows were refused; `rows`: how many were read."""
        if not self.lines:
            return
        first, more = self.lines[0], len(self.lines) - 1
        if more:
            for line in self.lines[:SHOWN]:
                console.note(line)
            first += f"; it refuses {more + 1} of {rows} rows"
        raise console.Problem(first, self.remedy)


def _line(where: str, error: Exception) -> str:
    return f"{where}: the chat template refuses the row ({str(error).strip()})"
