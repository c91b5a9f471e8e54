"""Concurrent processes: ended with their task, with limits on output and on silence."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

ERROR_BYTES = 64 << 10  # of stderr that are kept: its end
ERROR_LIMIT = 4 << 20  # more than that is not a message
CHUNK = 256 << 10


class Silent(Exception):
    """A process wrote nothing for the seconds that it was given, and was ended."""


class ErrorTail:
    """The end of a process's stderr, read as it comes, however much that is."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.kept, self.length = b"", 0
        self.task = asyncio.ensure_future(self._read(process.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(CHUNK):
            self.length += len(chunk)
            self.kept = (self.kept + chunk)[-ERROR_BYTES:]
            if self.length > ERROR_LIMIT:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()

    async def text(self) -> str:
        """What was written so far. A shared connection may hold the pipe open: one second."""
        await asyncio.wait([self.task], timeout=1)
        return self.kept.decode(errors="replace")

    def close(self) -> None:
        self.task.cancel()


async def run(
    command: list[str],
    take: Callable[[bytes], bool] | None = None,
    silence: float | None = None,
    **options: Any,
) -> tuple[int, str]:
    """(exit code, end of stderr) of a command; it is ended when this task is.

    `take` gets its output in chunks and ends it by returning False (the code is then 0); without
    `take` the output is dropped. `silence`: seconds without a chunk after which Silent is raised.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE if take else asyncio.subprocess.DEVNULL,
        limit=CHUNK, **options,
    )  # fmt: skip
    errors = ErrorTail(process)
    try:
        if take and not await _pass_on(process, take, silence):
            await end(process)
            return 0, await errors.text()
        code = await process.wait()
        return (255 if code < 0 else code), await errors.text()
    finally:
        await end(process)
        errors.close()


async def _pass_on(
    process: asyncio.subprocess.Process, take: Callable[[bytes], bool], silence: float | None
) -> bool:
    """Whether the output came to its end; False where `take` wanted no more."""
    while True:
        try:
            chunk = await asyncio.wait_for(process.stdout.read(CHUNK), silence)
        except asyncio.TimeoutError:
            raise Silent from None
        if not chunk:
            return True
        if not take(chunk):
            return False


async def every(tasks: list[Any]) -> None:
    """Await all to their end, then raise the first of their exceptions."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that is still running, gently at first."""
    if process.stdin:
        process.stdin.close()
    for stop in (process.terminate, process.kill):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                stop()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), 5)


def run_until_signal(work: Coroutine) -> Any:
    """asyncio.run, where SIGINT and SIGTERM cancel `work` and every process of it ends first."""
    received: list[int] = []

    async def supervised() -> Any:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in before:
            loop.add_signal_handler(number, stop, number)
        return await work

    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + received[0])
