"""Numbers for Prometheus, in its text format (version 0.0.4). Used from one thread only."""

from __future__ import annotations

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TYPE = "text/plain; version=0.0.4; charset=utf-8"
HELP = {
    "tandem_requests_total": ("counter", "Requests of chat completions by outcome"),
    "tandem_prompt_tokens_total": ("counter", "Tokens of the prompts of finished requests"),
    "tandem_completion_tokens_total": ("counter", "Tokens generated, abandoned answers too"),
    "tandem_request_seconds": ("histogram", "From the request to the end of its answer"),
    "tandem_first_token_seconds": ("histogram", "From the request to its first token"),
    "tandem_ready": ("gauge", "1 when requests are answered"),
    "tandem_answers_running": ("gauge", "Answers in the batch"),
    "tandem_answers_waiting": ("gauge", "Answers that wait for a row"),
    "tandem_model_steps_total": ("counter", "Forward passes of the model"),
    "tandem_model_rows_total": ("counter", "Rows in all forward passes"),
}
Labels = tuple[tuple[str, str], ...]


class ServingMetrics:
    """Counters and histograms with labels."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter."""
        key = name, tuple(sorted(labels.items()))
        self._values[key] = self._values.get(key, 0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a measurement to a histogram."""
        key = name, tuple(sorted(labels.items()))
        cells = self._histograms.setdefault(key, [0.0] * (len(BUCKETS) + 2))
        for i, bound in enumerate(BUCKETS):
            cells[i] += seconds <= bound
        cells[-2] += 1
        cells[-1] += seconds

    def text(self, **gauges: float) -> str:
        """Everything, and the `gauges` of this moment."""
        samples: dict[str, list[str]] = {}
        values = self._values | {(name, ()): value for name, value in gauges.items()}
        for (name, labels), value in sorted(values.items()):
            samples.setdefault(name, []).append(f"{name}{_braces(labels)} {value:.16g}")
        for (name, labels), cells in sorted(self._histograms.items()):
            lines = samples.setdefault(name, [])
            for bound, count in zip((*BUCKETS, "+Inf"), cells[:-1], strict=True):
                lines.append(f"{name}_bucket{_braces((*labels, ('le', str(bound))))} {count:.16g}")
            lines.append(f"{name}_sum{_braces(labels)} {cells[-1]:.16g}")
            lines.append(f"{name}_count{_braces(labels)} {cells[-2]:.16g}")
        parts = []
        for name, lines in samples.items():
            kind, text = HELP[name]
            parts += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]
        return "\n".join(parts) + "\n"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
               for k, v in labels}  # fmt: skip
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
