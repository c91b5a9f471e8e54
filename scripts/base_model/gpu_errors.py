"""Which errors say that the GPU's memory is full or the GPU is lost, in every library's words."""

from __future__ import annotations

from kit import console

# torch's allocator has a type of its own; cuBLAS, cuDNN and the driver raise plain RuntimeErrors.
FULL_WORDS = (
    "cuda error: out of memory", "cudaerrormemoryallocation", "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed", "cusolver_status_alloc_failed", "out of memory at line",
    "cuda out of memory",
    "defaultcpuallocator: can't allocate memory", "hip out of memory", "mps backend out of memory",
)  # fmt: skip
# How CUDA says that a card fell off its bus, broke or was taken away. A device-side assert and an
# illegal address are not among them: those are faults of a program.
LOST_WORDS = (
    "unspecified launch failure", "gpu is lost", "uncorrectable ecc error", "hardware stack error",
    "no cuda-capable device", "cuda-capable device(s) is/are busy or unavailable",
    "cuda error: unknown error", "uncorrectable nvlink error", "device not available",
    "cudaerrordevicesunavailable", "cudaerrordevicenotavailable",
)  # fmt: skip


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that the GPU's (or the host's) memory is full, by any library."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in FULL_WORDS)


def gpu_is_lost(error: BaseException) -> bool:
    """Whether an error of CUDA says that the card itself failed."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in LOST_WORDS)


def lost_gpu(error: Exception) -> console.Problem:
    """The Problem for a card that failed."""
    return console.Problem(
        f"the GPU failed ({console.first_line(error)})",
        "nvidia-smi and dmesg (Xid) say why; once it is back, --resume goes on (not ppo)",
    )
