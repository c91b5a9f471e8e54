#!/usr/bin/env python3
"""Push one batch through a 4-bit NF4 layer on the GPU, or on the CPU where there is none.

    .venv-remote/bin/python scripts/setup/nf4_forward.py

Quantises a 256 x 256 layer with bitsandbytes, double quantisation on, and compares its output
with that of the same layer in float32. Exit codes: 0 good, 1 it does not run or is far off.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import console  # noqa: E402
from kit.report import Check, report  # noqa: E402

ALLOWED = 0.2  # relative error; NF4 on normal weights measures about 0.1


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


def main(argv: list[str] | None = None) -> int:
    console.ArgumentParser(__doc__).parse_args(argv)
    fix = "see the message; LD_LIBRARY_PATH and BNB_CUDA_VERSION should be unset"
    try:
        device, error = relative_error()
    except Exception as failure:  # whatever a broken CUDA set-up raises
        first = (str(failure).strip() or "no message").splitlines()[0]
        return report([Check("NF4 forward", "fail", f"{type(failure).__name__}: {first}", fix)])
    status = "ok" if error < ALLOWED else "fail"
    found = f"on {device}, {error:.3f} off float32 (below {ALLOWED} is good)"
    return report([Check("NF4 forward", status, found, "" if status == "ok" else fix)])


if __name__ == "__main__":
    console.run(main)
