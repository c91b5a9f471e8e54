#!/usr/bin/env python3
"""Measure the kit on this machine's GPU in eight minutes: memory, pace, resume, full card, serving.

    .venv-remote/bin/python scripts/prove_gpu.py            every step, on the first GPU
    .venv-remote/bin/python scripts/prove_gpu.py --only train-4bit,serve
    .venv-remote/bin/python scripts/prove_gpu.py --dry-run  small shapes, on the CPU: does it run?
    scripts/host_run.sh gpu1 -- .venv-remote/bin/python scripts/prove_gpu.py --json

The large model has the shape of Llama-3.1-8B and random weights: no download, no disk. Each step
has its own limit and prints one line; report.json and a log a step are in --out. docs/GPU.md keeps
what was measured, card by card.

Exit codes: 0 every step was good, 1 a step failed or there is no GPU, 2 called wrongly.
"""

from __future__ import annotations

import json
from pathlib import Path

from kit import console, paths

SECONDS = 480.0


def parse(argv: list[str] | None):
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--out", type=Path, help="default: .cache/gpu-proof")
    parser.add_argument("--seconds", type=float, help="for all steps together (480)")
    parser.add_argument("--only", metavar="STEP,STEP", help="these, and what they need")
    parser.add_argument("--list", action="store_true", help="the steps and their limits")
    parser.add_argument("--dry-run", action="store_true", help="small shapes; needs no GPU")
    parser.add_argument("--child", help="(used by this command itself: one step)")
    parser.add_argument("--json", action="store_true", help="the report as one object on stdout")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from workflow import gpu_proof

    if args.child:
        return gpu_proof.child(args.child, args.dry_run)
    steps = gpu_proof.named(args.only)
    if args.list:
        for step in steps:
            console.result(f"{step.name:<15} {step.seconds:4.0f} s  {step.work.__doc__.strip()}")
        return console.GOOD
    if not args.dry_run:
        from training import cards

        here, wrong = cards.look()
        if not here:
            why = f" that can be used ({wrong[0].found})" if wrong else ""
            fix = f"{wrong[0].fix}; or " if wrong else ""
            fix += "run it on a host that has one, or with --dry-run"
            raise console.Problem(f"there is no NVIDIA GPU here{why}", fix)
    out = (args.out or paths.ROOT / ".cache" / "gpu-proof").resolve()
    seconds = args.seconds or (SECONDS * gpu_proof.DRY_RUN_FACTOR if args.dry_run else SECONDS)
    report = gpu_proof.prove(steps, out, args.dry_run, seconds)
    if args.json:
        console.result(json.dumps(report))
    else:
        console.result(f"report   {paths.show(out / 'report.json')}")
    return console.GOOD if report["good"] else console.FAILED


if __name__ == "__main__":
    console.run(main)
