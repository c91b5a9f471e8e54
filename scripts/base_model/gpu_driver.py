"""Whether this machine's NVIDIA driver answers, and why torch sees none of its GPUs.

torch asks the driver in this process: where the driver hangs, so does the process, and nothing can
end it with a reason. A second process is asked before, within a limit.
"""

from __future__ import annotations

import functools
import os

from checks import gpu
from kit import console, paths
from kit.report import Check

SMI_SECONDS = 10.0
ON_CPU = "CUDA_VISIBLE_DEVICES=-1 in front of the command takes the CPU"


@functools.cache
def require_answer() -> None:
    """Problem where the driver does not come back. Call it before torch is asked for GPUs."""
    for check in gpu.hanging_driver():
        what = f"the NVIDIA driver: {check.found} in {gpu.DRIVER_SECONDS:g} s"
        raise console.Problem(what, check.fix)


@functools.cache
def failures() -> tuple[Check, ...]:
    """What is wrong with this machine's GPUs, by check_gpu.py's checks; () without a driver."""
    if not gpu.driver_is_there():
        return ()
    checks, _ = gpu.look(paths.ROOT / "requirements-remote.txt", SMI_SECONDS)
    bad = [c for c in checks if c.status == "fail" or (c.name == "cuda" and c.status == "warn")]
    return tuple(bad)


def unseen() -> console.Problem | None:
    """The Problem of a machine with an NVIDIA driver of whose GPUs torch sees none; else None.

    GPUs that CUDA_VISIBLE_DEVICES hides (empty or -1) are not missed.
    """
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if hidden or not gpu.driver_is_there() or torch.cuda.is_available():
        return None
    why, fix = f"torch {torch.__version__} sees none", "python scripts/check_gpu.py says more"
    if bad := failures():
        why, fix = f"{bad[0].name}: {bad[0].found}", bad[0].fix
    return console.Problem(f"no GPU can be used here ({why})", f"{fix}; {ON_CPU}")
