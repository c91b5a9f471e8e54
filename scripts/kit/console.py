"""How commands speak and end: one-line errors, exit codes, stdout for results only.

    from kit import console
    def main(argv=None) -> int: ...
    if __name__ == "__main__":
        console.run(main)

Exit codes: 0 good, 1 a check or the work failed, 2 called or configured wrongly,
130/143 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

GOOD, FAILED, MISUSED = 0, 1, 2


class Problem(Exception):
    """Ends a command with one line. `text` says what, where; `remedy` what mends it."""

    def __init__(self, text: str, remedy: str = "", code: int = FAILED):
        self.code = code
        super().__init__(f"{text}; {remedy}" if remedy else text)


class Misuse(Problem):
    """A Problem of how the command was called or configured: exit code 2."""

    def __init__(self, text: str, remedy: str = ""):
        super().__init__(text, remedy, MISUSED)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the module's docstring as help, kept line by line, and one-line errors."""

    def __init__(self, doc: str | None = None, **kwargs):
        kwargs.setdefault("description", doc)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)

    def error(self, message: str):
        self.exit(MISUSED, f"{self.prog}: {message}; see {self.prog} --help\n")


def say(text: str) -> None:
    """A step begins: `==> text` on stderr."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A plain line on stderr."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A warning on stderr, in the words of the report: `warn  text`."""
    print(f"warn  {text}", file=sys.stderr, flush=True)


def colour(stream=sys.stdout) -> bool:
    """Whether colour may be used on `stream`: a terminal, and NO_COLOR is not set."""
    return stream.isatty() and "NO_COLOR" not in os.environ


def size(n: float) -> str:
    """1536 -> '1.5 KB' (1 KB = 1024 bytes, as rsync, ls and GPU makers count)."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(n) < 1024 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


class _Lines:
    """tqdm's `update` and `close` as one line per 10 %, where there is no terminal."""

    def __init__(self, total: int | None, what: str, unit: str):
        self.total, self.what, self.unit = total, what, unit
        self.n, self.shown, self.began = 0, 0, time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, n: float = 1) -> None:
        self.n += n
        tenth = int(10 * self.n / self.total) if self.total else 0
        if tenth > self.shown and time.monotonic() - self.began > 2:
            self.shown = tenth
            note(f"{self.what}: {tenth * 10} % ({self.n:,.0f} of {self.total:,.0f} {self.unit})")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Only a terminal shows it."""

    def close(self) -> None:
        """Nothing to tidy."""


def progress(total: int | None, what: str, unit: str = "it", **kwargs):
    """A tqdm bar on a terminal; elsewhere, after two seconds, one line per 10 %.

    Use as a context manager; `update(n)` counts.
    """
    if not sys.stderr.isatty():
        return _Lines(total, what, unit)
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, file=sys.stderr, **kwargs)


def program() -> str:
    """The command's name as messages give it: the script's file name."""
    return Path(sys.argv[0]).name


def _interrupted(signum, frame):
    raise SystemExit(128 + signum)


def run(main) -> None:
    """Run `main()` and exit as the contract says; no traceback for anything a user can cause.

    TANDEM_DEBUG=1 shows the traceback of a Problem or an operating-system error.
    """
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # good where the reader of our stdout had enough (`| head`)
        left_out, left_err = _unread(sys.stdout), _left(sys.stderr)
        code = FAILED if left_err and not left_out else GOOD
    except (Problem, OSError) as error:
        if os.environ.get("TANDEM_DEBUG"):
            raise
        code = getattr(error, "code", FAILED)
        with contextlib.suppress(BrokenPipeError):
            print(f"{program()}: {_one_line(error)}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if os.environ.get("TANDEM_DEBUG"):
            raise
        code = FAILED
        print(
            f"{program()}: the package {error.name} is missing in {sys.executable}; "
            f"run it with .venv-local/bin/python or .venv-remote/bin/python "
            f"(make setup-local, make setup-remote)",
            file=sys.stderr,
        )
    _unread(sys.stderr)  # what nobody read must not change the exit code
    sys.exit(code)


def _left(stream) -> bool:
    """Whether the reader of a pipe went away."""
    if stream is None:  # it was closed before the command began
        return False
    asked = select.poll()
    asked.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _unread(stream) -> bool:
    """Whether a stream holds what its reader, who went away, did not take; that is dropped."""
    try:
        if stream:
            stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        text = f"{named}{error.strerror or error}"
        remedies = {28: "free space on that disk", 13: "check the permissions"}
        remedy = remedies.get(error.errno or 0)
        return f"{text}; {remedy}" if remedy else text
    return str(error)
