"""A program that a transfer runs: it ends with this process, whatever ends that."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def ended_with_us(process: subprocess.Popen) -> Iterator[None]:
    """Where the block is left by an exception: SIGTERM, and SIGKILL 5 s later."""
    try:
        yield
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        raise
