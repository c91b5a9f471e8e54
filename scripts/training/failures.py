"""What can end a training badly, recorded in status.json and turned into one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from base_model import library_exit
from base_model.gpu_errors import gpu_is_lost, lost_gpu, memory_is_full
from kit import console
from training import processes
from training.run_folder import RunFolder

RESUME = "once it is back, --resume goes on (not ppo)"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def recorded(
    writer: RunFolder | None, out_of_memory: Callable[[Exception], console.Problem]
) -> Iterator[None]:
    """Record any failure in status.json; turn out-of-memory and disk-full into a Problem."""
    try:
        with library_exit.handled(lambda error: ended_by_library(writer, error, out_of_memory)):
            yield
        return
    except (KeyboardInterrupt, SystemExit):
        if writer:
            with contextlib.suppress(OSError):
                writer.end("stopped")
        raise
    except Exception as error:
        problem = as_problem(error, out_of_memory)
        end_failed(writer, problem or error)
        if problem is None:
            raise
    raise problem


def as_problem(
    error: Exception, out_of_memory: Callable[[Exception], console.Problem]
) -> console.Problem | None:
    """The Problem for full memory, a full disk and a lost GPU; None for other errors."""
    if memory_is_full(error):
        return out_of_memory(error)
    if disk_is_full(error):
        return console.Problem(
            f"the disk is full ({console.first_line(error)})",
            "free space there; --resume goes on (not ppo)",
        )
    return lost_gpu(error, RESUME) if gpu_is_lost(error) else None


def ended_by_library(
    writer: RunFolder | None,
    error: library_exit.LibraryExit,
    out_of_memory: Callable[[Exception], console.Problem],
) -> None:
    """Record, note and print why this process ends although no Python code can go on."""
    problem = as_problem(error, out_of_memory) or library_exit.unknown(error)
    end_failed(writer, problem)
    processes.note_end(problem.code, str(problem))
    library_exit.print_problem(problem)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there was no room for a file, by any library."""
    text = str(error)
    named = any(f"(os error {number})" in text for number in DISK_FULL)  # safetensors has no errno
    torch_says = "PytorchStreamWriter failed" in text or "inline_container.cc" in text
    return getattr(error, "errno", None) in DISK_FULL or named or torch_says


def end_failed(writer: RunFolder | None, error: Exception) -> None:
    """Write down that the run failed, as far as the disk has room for it."""
    if writer:
        why = console.first_line(error)
        with contextlib.suppress(OSError):
            writer.end("failed", error=why)
        with contextlib.suppress(OSError):
            writer.log(f"failed: {why}")
