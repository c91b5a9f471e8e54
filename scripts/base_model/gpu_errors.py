"""Which errors say that memory is full or that the GPU is lost, in every library's words.

torch's allocator has a type of its own. cuBLAS, cuDNN, NCCL, Triton, the driver and the CPU's
allocator raise plain RuntimeErrors, and other libraries wrap those in errors of their own.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from kit import console

_FULL = re.compile(
    r"out of memory|alloc(ation)?_failed|cuda_?error_?memory_?allocation|bad_alloc"
    r"|(can't|cannot|could not|failed to|unable to) (allocate|alloc|map host) "
    r"|not enough memory|cuda failure 2\b|status_insufficient_resources",
    re.I,
)
# Among them those of the host's memory.
_HOST = re.compile(r"defaultcpuallocator|cannot allocate memory|bad_alloc|map host", re.I)
# What cuBLAS and cuDNN say when their handle finds no room, and for other reasons too.
_VAGUE = re.compile(r"cu(blas|dnn|solver)_status_(not_initialized|internal_error)\b", re.I)
LITTLE = 256 << 20  # bytes free on a card below which a vague error means full memory
# How CUDA says that a card fell off its bus, broke or was taken away. A device-side assert and an
# illegal address are not among them: those are faults of a program.
_LOST = re.compile(
    r"unspecified launch failure|launch timed out|gpu is lost|fallen off the bus|uncorrectable"
    r"|hardware stack error|or a hardware error|no cuda-capable device|no cuda gpus are available"
    r"|no nvidia driver|busy or unavailable|cuda (driver )?error: unknown error"
    r"|cuda unknown error|cuda driver initialization failed|cuda error: initialization error"
    r"|device (is )?(not available|unavailable)|cudaerrordevice(s|not)?(un)?available"
    r"|requires reset|system not yet initialized|unsupported display driver"
    r"|driver version is insufficient|cuda failure (46|100|101|214|719|999)\b",
    re.I,
)
AGAIN = "start the same again once it is back"


class GpuLost(console.Problem):
    """The card itself failed, or is not there any more."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from; of a Problem itself alone."""
    current: BaseException | None = error
    for _ in range(8):
        if current is None:
            return
        yield current
        current = None if isinstance(current, console.Problem) else current.__cause__


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says that the GPU's (or the host's) memory is full, by any library."""
    import torch

    for one in _chain(error):
        if isinstance(one, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(one, OSError) and one.errno == errno.ENOMEM:
            return True
        if isinstance(one, RuntimeError):
            text = str(one)
            if _FULL.search(text) or (_VAGUE.search(text) and _little_is_free()):
                return True
    return False


def host_memory_is_full(error: BaseException) -> bool:
    """Whether an error of full memory is about the host's, not the GPU's."""
    return any(
        isinstance(one, MemoryError)
        or getattr(one, "errno", None) == errno.ENOMEM
        or (isinstance(one, RuntimeError) and _HOST.search(str(one)))
        for one in _chain(error)
    )


def _little_is_free() -> bool:
    """Whether the current card has next to no free memory."""
    import torch

    try:
        return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < LITTLE
    except Exception:  # a card that is full may refuse even the question
        return True


def gpu_is_lost(error: BaseException) -> bool:
    """Whether an error of CUDA says that the card itself failed."""
    return any(
        isinstance(one, GpuLost) or (isinstance(one, RuntimeError) and _LOST.search(str(one)))
        for one in _chain(error)
    )


def lost_gpu(error: BaseException, again: str = AGAIN) -> GpuLost:
    """The Problem for a card that failed. again: what to do once the card is back."""
    text = error.text if isinstance(error, GpuLost) else _lost_text(error)
    return GpuLost(text, f"nvidia-smi and dmesg (Xid) say why; {again}")


def _lost_text(error: BaseException) -> str:
    words = next(one for one in _chain(error) if _LOST.search(str(one)))
    return f"the GPU failed ({console.first_line(words)})"
