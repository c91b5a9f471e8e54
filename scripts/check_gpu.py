#!/usr/bin/env python3
"""Say whether this machine's GPUs can train, before anything is installed: no torch needed.

    python scripts/check_gpu.py                     driver, CUDA, every card, variables
    python scripts/check_gpu.py --min-memory 24     fail where no card has 24 GB
    python scripts/check_gpu.py --allow-cpu         a laptop that rehearses: nothing fails
    python scripts/check_gpu.py --json              one object on stdout, with `gpus`

Asks nvidia-smi and the driver itself (cuInit), and knows what their errors mean: no driver, two
versions of one, CUDA errors 802, 803 and 804, a driver too old for the pinned torch, a card
without bfloat16, MIG slices, a stray LD_LIBRARY_PATH. It changes nothing and installs nothing.

Exit codes: 0 good (warnings too), 1 no GPU that can train, 2 called wrongly.
"""

from __future__ import annotations

import dataclasses

from checks import gpu
from kit import console, paths
from kit.report import report


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--min-memory", type=float, default=0, metavar="GB", help="of one card")
    parser.add_argument("--allow-cpu", action="store_true", help="nothing fails, it is skipped")
    parser.add_argument(
        "--timeout",
        type=float,
        default=gpu.TIMEOUT,
        metavar="S",
        help="for nvidia-smi (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    lock = paths.ROOT / "requirements-remote.txt"
    checks, cards = gpu.look(lock, args.timeout, args.min_memory, args.allow_cpu)
    extra = [
        dataclasses.asdict(card) | {"class": card.memory_class, "bf16": card.bf16} for card in cards
    ]
    return report(checks, args.json, gpus=extra)


if __name__ == "__main__":
    console.run(main)
