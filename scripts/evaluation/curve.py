"""The loss curve of a run as an SVG drawing: no script, no picture file, colours by CSS classes."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

from kit import jsonl

Point = tuple[float, float]  # (step, loss)

WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40


def read(run: Path) -> dict[str, list[Point]]:
    """{"training": points, "validation": points} of metrics.jsonl; NaN and Inf are left out."""
    series: dict[str, list[Point]] = {"training": [], "validation": []}
    if (run / "metrics.jsonl").is_file():
        for _, row in jsonl.read(run / "metrics.jsonl"):
            for name, key in (("training", "loss"), ("validation", "eval_loss")):
                value = row.get(key)
                if isinstance(value, int | float) and math.isfinite(value) and "step" in row:
                    series[name].append((row["step"], value))
    return series


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between `low` and `high`, at most `most`.

    >>> ticks(0, 190)
    [0.0, 50.0, 100.0, 150.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(series: dict[str, list[Point]]) -> str:
    """The drawing, or '' where there are not two points to join."""
    drawn = {name: points for name, points in series.items() if points}
    points = [point for line in drawn.values() for point in line]
    if len(points) < 2:
        return ""
    steps, losses = zip(*points, strict=True)
    left, right = min(*steps, 0), max(steps)
    low, high = min(losses), max(losses)
    margin = (high - low) * 0.05 or 0.5
    low, high = low - margin, high + margin

    def x(step: float) -> float:
        return LEFT + (step - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [*_grid(x, y, (left, right), (low, high))]
    for name, line in drawn.items():
        parts.append(_line(name, [(x(s), y(v)) for s, v in line], line))
    best = min(drawn.get("validation") or drawn["training"], key=lambda p: p[1])
    label = f"Loss by step; the lowest is {best[1]:.4f} at step {best[0]:g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _grid(x, y, steps: Point, losses: Point) -> Sequence[str]:
    bottom = HEIGHT - BOTTOM
    for loss in ticks(*losses):
        yield f'<path class="grid" d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:g}</text>'
    for step in ticks(*steps, 8):
        yield f'<text x="{x(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step:g}</text>'
    yield f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>'
    yield f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'


def _line(name: str, places: list[Point], values: list[Point]) -> str:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = ""
    if len(places) <= 100:
        dots = "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"><title>{name} loss {loss:.4f} at step '
            f"{step:g}</title></circle>"
            for (a, b), (step, loss) in zip(places, values, strict=True)
        )
    return f'<g class="{name}"><polyline points="{path}"/>{dots}</g>'
