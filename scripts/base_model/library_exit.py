"""Do something when a C library ends this process: bitsandbytes calls exit(1) on any CUDA error.

    with library_exit.handled(report):      # report(error) runs in the thread that called exit()
        trainer.train()

exit() calls the functions that a process registered (__cxa_atexit). One that is written in Python
may be among them only while Python runs, so it is taken back at the end of the block. Python's own
ends do not come here: sys.exit leaves the block first, os._exit and signals call no such function.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

from kit import console

CALLED = "exit() was called"


class LibraryExit(RuntimeError):
    """A library called exit(); the text is what CUDA says of this thread's last call."""


@contextlib.contextmanager
def handled(report: Callable[[LibraryExit], None]) -> Iterator[None]:
    """Where a library calls exit() in the block, call `report` and end with exit code 1."""
    forget = handle(report)
    try:
        yield
    finally:
        forget()


def handle(report: Callable[[LibraryExit], None]) -> Callable[[], None]:
    """`handled` from now on; returns the function that ends it. Python's end ends it too."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "__cxa_finalize"):
        return lambda: None
    _start_cuda()
    process, active = os.getpid(), True

    def called(_: int | None) -> None:
        if not active or os.getpid() != process:
            return
        try:
            library.fflush(None)  # its own line, which says where
            report(LibraryExit(_cuda_error(library)))
        finally:
            os._exit(1)  # what other threads still use is not taken down under them

    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(called)
    owner = ctypes.create_string_buffer(1)  # its address names what is registered here
    registered = [function, owner]  # `forget` keeps both alive: C has their addresses alone
    library["__cxa_atexit"](function, None, ctypes.byref(owner))

    def forget() -> None:
        nonlocal active
        active = False
        if registered:
            library["__cxa_finalize"](ctypes.byref(owner))  # calls `function` once, and forgets it
            registered.clear()
        atexit.unregister(forget)

    atexit.register(forget)
    return forget


def _start_cuda() -> None:
    """Start CUDA where torch is loaded: exit() takes down first what was started last."""
    torch = sys.modules.get("torch")
    with contextlib.suppress(Exception):  # the next call says what is wrong
        if torch and torch.cuda.is_available():
            torch.cuda.mem_get_info()


def unknown(error: LibraryExit) -> console.Problem:
    """The Problem for an end whose cause is neither full memory nor a lost GPU."""
    return console.Problem(
        f"a library ended this process ({console.first_line(error)}; its own line is above)",
        "python scripts/check_gpu.py looks at GPU, driver and versions",
    )


def print_problem(problem: console.Problem) -> None:
    """Print the Problem as `console.run` does for the commands whose Python goes on."""
    console.note(console.printable_line(f"{console.program()}: {problem}"))


def _cuda_error(library: ctypes.CDLL) -> str:
    """The error of this thread's last CUDA call in words; 'exit() was called' without one."""
    torch = sys.modules.get("torch")
    if not (torch and torch.cuda.is_initialized() and hasattr(library, "cudaPeekAtLastError")):
        return CALLED
    peek, words = library["cudaPeekAtLastError"], library["cudaGetErrorString"]
    words.restype = ctypes.c_char_p
    code = peek()
    return f"CUDA error: {words(code).decode(errors='replace')}" if code else CALLED
