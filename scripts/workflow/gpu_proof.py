"""Runs the steps of `make prove-gpu`: each in a process group of its own with a limit of its own.

A step that fails, hangs or ends its process (bitsandbytes does on any CUDA error) costs the proof
that step alone. Each prints one line; report.json keeps all, and a log a step is beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import console, paths, publish
from workflow import proof_serving, proof_steps

RESULT = "RESULT "
COMMAND = paths.ROOT / "scripts" / "prove_gpu.py"
LEAST_SECONDS = 10.0  # a step is not begun with less
DRY_RUN_FACTOR = 3  # of a step's limit: a laptop imports torch slowly


@dataclasses.dataclass(frozen=True)
class ProofStep:
    """One measurement: its function, its limit, and what must have run before it."""

    name: str
    seconds: float
    work: Callable[[proof_steps.Sizes], dict[str, Any]]
    after: str = ""
    needs_gpu: bool = False


STEPS = (
    ProofStep("environment", 40, proof_steps.environment),
    ProofStep("models", 60, proof_steps.models),
    ProofStep("kernels", 45, proof_steps.kernels),
    ProofStep("train-4bit", 110, proof_steps.train_4bit, "models"),
    ProofStep("full-card", 60, proof_steps.full_card, "models", needs_gpu=True),
    ProofStep("resume", 120, proof_steps.resume, "models"),
    ProofStep("serve", 100, proof_serving.serve, "train-4bit"),
    ProofStep("evaluate", 80, proof_steps.evaluate, "train-4bit"),
    ProofStep("train-bfloat16", 110, proof_steps.train_bfloat16, "models"),
)


def named(names: str | None) -> list[ProofStep]:
    """The steps of `--only a,b`, in their order and with what each needs. Misuse for another."""
    if not names:
        return list(STEPS)
    known = {step.name: step for step in STEPS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise console.Misuse(f"--only {unknown[0]}: no such step", f"give: {', '.join(known)}")
    for name in wanted:  # grows while it is read: what a step needs, needs something too
        if known[name].after and known[name].after not in wanted:
            wanted.append(known[name].after)
    return [step for step in STEPS if step.name in wanted]


def prove(steps: list[ProofStep], out: Path, small: bool, seconds: float) -> dict[str, Any]:
    """Run the steps within `seconds` for all; the report, also in out/report.json."""
    shutil.rmtree(out / "work", ignore_errors=True)
    (out / "work").mkdir(parents=True)
    end = time.monotonic() + seconds
    records: list[dict[str, Any]] = []
    for step in steps:
        record = _record(step, records, out, small, end)
        records.append(record)
        console.note(line(record))
        publish.json_file(out / "report.json", _report(records, small))
    shutil.rmtree(out / "work", ignore_errors=True)
    return _report(records, small)


def _report(records: list[dict[str, Any]], small: bool) -> dict[str, Any]:
    env = next((r.get("facts", {}) for r in records if r["step"] == "environment"), {})
    return {"card": env.get("card"), "dry_run": small, "steps": records,
            "good": not any(r["state"] == "failed" for r in records)}  # fmt: skip


def _record(
    step: ProofStep, before: list[dict[str, Any]], out: Path, small: bool, end: float
) -> dict[str, Any]:
    """What became of one step: good, failed or skipped, with the reason."""
    states = {record["step"]: record["state"] for record in before}
    remaining = end - time.monotonic()
    why = ""
    if step.needs_gpu and small:
        why = "it needs a card"
    elif step.after and states.get(step.after) != "good":
        why = f"{step.after} gave nothing to work on"
    elif remaining < LEAST_SECONDS:
        why = "no time left"
    if why:
        state = "skipped" if step.needs_gpu and small else "failed"
        return {"step": step.name, "state": state, "seconds": 0.0, "why": why}
    limit = step.seconds * (DRY_RUN_FACTOR if small else 1)
    return run_step(step, out, small, min(limit, remaining))


def run_step(step: ProofStep, out: Path, small: bool, seconds: float) -> dict[str, Any]:
    """Run one step in a process group, which is killed at its end or its limit."""
    log = out / f"{step.name}.log"
    words = [sys.executable, str(COMMAND), "--child", step.name, *(["--dry-run"] * small)]
    env = os.environ | {"TANDEM_WORKDIR": str(out / "work"), "TANDEM_ENV": "remote"}
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    record = {"step": step.name, "seconds": round(time.monotonic() - began, 1)}
    result = next((text for text in reversed(lines) if text.startswith(RESULT)), None)
    if code == 0 and result:
        return record | {"state": "good", "facts": json.loads(result.removeprefix(RESULT))}
    last = next((text.strip() for text in reversed(lines) if text.strip()), "no output")
    why = f"over {seconds:.0f} s" if code is None else f"{last[:300]} ({log.name})"
    return record | {"state": "failed", "why": why}


def child(name: str, small: bool) -> int:
    """One step in this process; its facts are the last line of stdout."""
    (step,) = (step for step in STEPS if step.name == name)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if small:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    facts = step.work(proof_steps.SMALL if small else proof_steps.CARD)
    print(RESULT + json.dumps(facts), flush=True)
    return console.GOOD


def line(record: dict[str, Any]) -> str:
    """One line for people."""
    mark = {"good": "ok", "failed": "FAIL", "skipped": "skip"}[record["state"]]
    detail = record.get("why") or "  ".join(
        f"{key} {_shown(value)}" for key, value in record.get("facts", {}).items()
    )
    return f"{mark:<4}  {record['step']:<15} {record['seconds']:6.1f} s  {detail}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items()) + ")"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
