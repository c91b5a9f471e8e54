"""GPU memory as it is: the measured peak of a run, and the line for a card that is full."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

from kit import console
from training.cards import Card


def peak() -> dict[str, Any] | None:
    """The card, and the bytes that this process took at its peak; None without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {
        "card": torch.cuda.get_device_name(),
        "card_bytes": torch.cuda.mem_get_info()[1],
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def own_card() -> list[Card]:
    """The card of this process, as a plan has it; [] without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    bf16 = torch.cuda.get_device_capability() >= (8, 0)
    return [Card(torch.cuda.get_device_name(), 0.0, None, bf16)]


def beside_estimate(measured: dict[str, Any], estimated: float) -> str:
    """The measured peak and the estimate in a few words, for the log."""
    from training.memory import CUDA_CONTEXT

    need = measured["peak_reserved"] + CUDA_CONTEXT
    return (
        f"GPU memory: {console.size(need)} of {console.size(measured['card_bytes'])} at the peak, "
        f"{console.size(estimated)} estimated ({need / estimated:.0%})"
    )


def out_of_memory(estimated: float | None, remedies: list[str]) -> console.Problem:
    """The Problem for a full card: what it has, who holds it, and what to lower."""
    parts = []
    state = card_state()
    if state:
        parts.append(state)
    if estimated is not None:
        parts.append(f"estimated need {console.size(estimated)}")
    facts = f" ({'; '.join(parts)})" if parts else ""
    order = "; ".join(f"{i}. {text}" for i, text in enumerate(remedies, 1))
    remedy = "end what else uses the GPU (nvidia-smi), or take a larger one"
    remedy = f"lower, in this order: {order}" if order else remedy
    return console.Problem(f"out of GPU memory{facts}", remedy)


def out_of_host_memory(remedies: list[str]) -> console.Problem:
    """The Problem for a full host. remedies: what to lower, where the CPU trains."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{console.size(memory.available)} of {console.size(memory.total)} free"
    order = "; ".join(f"{i}. {text}" for i, text in enumerate(remedies, 1))
    remedy = "end other programs there, or take a machine with more memory"
    remedy += f", or lower, in this order: {order}" if order else ""
    return console.Problem(f"out of the machine's memory, not the GPU's ({text})", remedy)


def card_state() -> str:
    """'NVIDIA …: 23.5 GB, 0.1 GB free, others hold 3.0 GB'; '' where CUDA does not say."""
    try:
        import torch

        if not torch.cuda.is_available():
            return ""
        free, total = torch.cuda.mem_get_info()
        others = max(0, total - free - torch.cuda.memory_reserved() - (1 << 29))
        name = torch.cuda.get_device_name()
    except Exception:  # a card that is full or gone may answer anything
        return ""
    text = f"{name}: {console.size(total)}, {console.size(free)} free"
    if others > 1 << 28:
        text += f", other processes hold {console.size(others)}{processes()}"
    return text


def processes() -> str:
    """' (pid name size, …)' of the compute processes that nvidia-smi lists; '' without one."""
    from checks.gpu import find_smi

    smi = find_smi()
    if smi is None:
        return ""
    fields = ["--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader"]
    lines: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run([smi, *fields], capture_output=True, text=True, timeout=5)
        lines = answer.stdout.splitlines()[:4] if answer.returncode == 0 else []
    shown = "; ".join(line.strip()[:80] for line in lines if line.strip())
    return f" ({shown})" if shown else ""
