#!/usr/bin/env python3
"""Push one batch through a 4-bit NF4 layer on the GPU, or on the CPU where there is none.

    .venv-remote/bin/python scripts/setup/nf4_forward.py
    .venv-remote/bin/python scripts/setup/nf4_forward.py --gpu     fails where torch sees no GPU

Quantises a 256 x 256 layer with bitsandbytes, double quantisation on, and compares its output
with that of the same layer in float32. A driver that hangs ends it after ten minutes.

Exit codes: 0 good, 1 it does not run, runs on the CPU though a GPU was asked for, or is far off.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console  # noqa: E402
from kit.report import Check, report  # noqa: E402

ALLOWED = 0.2  # relative error; NF4 on normal weights measures about 0.1
LONGEST = 600  # seconds
FIX = "see the message; LD_LIBRARY_PATH and BNB_CUDA_VERSION should be unset"


def relative_error() -> tuple[str, float]:
    """(device, |NF4 output - float32 output| / |float32 output|) of one forward pass."""
    logging.disable(logging.WARNING)  # bitsandbytes names a speed-up that is not installed
    import bitsandbytes as bnb
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = torch.nn.Linear(256, 256, bias=False)
    quantised = bnb.nn.Linear4bit(
        256,
        256,
        bias=False,
        compute_dtype=torch.float32,
        quant_type="nf4",
        compress_statistics=True,
    )
    quantised.load_state_dict(plain.state_dict())
    quantised = quantised.to(device)
    if quantised.weight.dtype != torch.uint8:
        raise console.Problem(f"the layer is {quantised.weight.dtype} on {device}, not 4-bit")
    batch = torch.randn(8, 256)
    with torch.no_grad():
        expected = plain(batch)
        error = (quantised(batch.to(device)).cpu() - expected).norm() / expected.norm()
    return device, float(error)


def why_no_gpu() -> tuple[str, str]:
    """(why torch uses no GPU, what to do about it)."""
    import torch

    name = f"torch {torch.__version__}"
    if torch.version.cuda is None:
        text = f"on the CPU: {name} is a build with no CUDA and sees no GPU"
        return text, "take an x86-64 GPU host (the pinned torch has no CUDA on arm64 Linux)"
    try:
        torch.cuda.init()
        reason = "it finds no device"
    except Exception as error:
        reason = console.first_line(error)
    text = f"on the CPU: {name} for CUDA {torch.version.cuda} sees no GPU: {reason}"
    return (
        text,
        "python scripts/check_gpu.py says more; unset LD_LIBRARY_PATH, CUDA_VISIBLE_DEVICES",
    )


def check(gpu: bool) -> Check:
    """One forward pass; with `gpu` it must run on one."""
    name = "NF4 forward"
    try:
        device, error = relative_error()
        if gpu and device != "cuda":
            return Check(name, "fail", *why_no_gpu())
    except Exception as failure:  # whatever a broken CUDA set-up raises
        text = f"{type(failure).__name__}: {console.first_line(failure)}"
        return Check(name, "fail", text, FIX)
    status = "ok" if error < ALLOWED else "fail"
    text = f"on {device}, {error:.3f} off float32 (below {ALLOWED} is good)"
    return Check(name, status, text, "" if status == "ok" else FIX)


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser(__doc__)
    parser.add_argument("--gpu", action="store_true", help="fail where torch sees no GPU")
    args = parser.parse_args(argv)
    signal.alarm(LONGEST)  # the default action ends a process that hangs in the driver
    return report([check(args.gpu)])


if __name__ == "__main__":
    console.run(main)
