"""Which errors say that memory is full, in the words of every library that allocates it."""

from __future__ import annotations

# torch's allocator has a type of its own; cuBLAS, cuDNN and the driver raise plain RuntimeErrors.
WORDS = (
    "cuda error: out of memory", "cudaerrormemoryallocation", "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed", "cusolver_status_alloc_failed", "out of memory at line",
    "cuda out of memory",
    "defaultcpuallocator: can't allocate memory", "hip out of memory", "mps backend out of memory",
)  # fmt: skip


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that the GPU's (or the host's) memory is full, by any library."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in WORDS)
