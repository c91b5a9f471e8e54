"""The loss curve as inline SVG, drawn twice: for wide and for narrow screens (CSS shows one)."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from typing import Any

from evaluation.curve import Point, ticks

MOST = 300  # points of a line; more are thinned out
LARGEST = 1e12  # a loss beyond it is damage, and would flatten all the rest
SERIES = {"training": "loss", "validation": "eval_loss"}


@dataclasses.dataclass(frozen=True)
class CurveFrame:
    """A drawing's size in its own units (roughly CSS pixels) and its CSS class."""

    kind: str
    width: int
    height: int
    left: int = 52
    right: int = 12
    top: int = 12
    bottom: int = 34


WIDE, NARROW = CurveFrame("wide", 760, 270), CurveFrame("narrow", 330, 220, left=40, right=8)


def series(rows: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """{"training": points, "validation": points} of metrics rows, thinned to what can be seen."""
    lines: dict[str, list[Point]] = {}
    for name, key in SERIES.items():
        points = [(row["step"], row[key]) for row in rows
                  if "step" in row and isinstance(row.get(key), int | float)
                  and abs(row[key]) < LARGEST]  # fmt: skip
        stride = -(-len(points) // MOST) or 1
        # the last point stays, whatever the stride
        lines[name] = points[(len(points) - 1) % stride :: stride] if points else []
    return lines


def draw(rows: list[dict[str, Any]], most_steps: int | None = None) -> str:
    """Both drawings, or '' where there are not two points to join."""
    lines = {name: points for name, points in series(rows).items() if points}
    if sum(map(len, lines.values())) < 2:
        return ""
    return "".join(_svg(lines, frame, most_steps) for frame in (WIDE, NARROW))


def _svg(lines: dict[str, list[Point]], frame: CurveFrame, most_steps: int | None) -> str:
    points = [point for line in lines.values() for point in line]
    last = max(most_steps or 0, *(step for step, _ in points)) or 1
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    margin = (high - low) * 0.06 or 0.5
    low, high = low - margin, high + margin
    width, height = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom

    def place(step: float, loss: float) -> tuple[float, float]:
        return (frame.left + step / last * width,
                frame.top + (high - loss) / (high - low) * height)  # fmt: skip

    best = min(lines.get("validation") or lines["training"], key=lambda p: p[1])
    label = f"Loss by step; the lowest is {best[1]:.4f} at step {best[0]:g}"
    inside = [*_axes(frame, place, last, (low, high))]
    inside += [_line(name, drawn, place) for name, drawn in lines.items()]
    return (
        f'<svg class="curve {frame.kind}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(inside)}</svg>'
    )


def _axes(frame: CurveFrame, place, last: float, losses: Point) -> Iterator[str]:
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    for loss in ticks(*losses, 5):
        y = place(0, loss)[1]
        yield f'<path class="grid" d="M{frame.left} {y:.1f}H{right}"/>'
        yield f'<text x="{frame.left - 7}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>'
    for step in ticks(0, last, 4 if frame is NARROW else 8):
        x = place(step, 0)[0]
        near_end = x > right - 14
        anchor, x = ("end", right) if near_end else ("middle", x)
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="{anchor}">{step:,g}</text>'
    yield f'<path class="axis" d="M{frame.left} {bottom}H{right}"/>'
    middle = (frame.left + right) / 2
    yield f'<text x="{middle}" y="{frame.height - 3}" text-anchor="middle">step</text>'


def _line(name: str, points: list[Point], place) -> str:
    path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
    dots = ""
    if len(points) <= 60:
        dots = "".join(
            '<circle cx="{:.1f}" cy="{:.1f}" r="2.5">'.format(*place(step, loss))
            + f"<title>{name} loss {loss:.4f} at step {step:g}</title></circle>"
            for step, loss in points
        )
    return f'<g class="{name}"><polyline points="{path}"/>{dots}</g>'
