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
import re
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

GOOD, FAILED, MISUSED = 0, 1, 2
GB = 1 << 30


class Problem(Exception):
    """Ends a command with one line. `text` says what and where, `remedy` how to fix it."""

    def __init__(self, text: str, remedy: str = "", code: int = FAILED):
        self.text, self.remedy, self.code = text, remedy, code
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
        self.exit(MISUSED, printable_line(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


# All that a terminal could take for a command: C0 but tab and line feed, DEL, C1, and the marks
# that reverse the direction of text; and halves of surrogate pairs, which cannot be encoded.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` with every control character shown as its escape: '\\x1b[2J'. Line feeds stay.

    Text from a host, a card, a configuration or a log can hold sequences that move the cursor,
    rename the window or write to the clipboard; all that this module prints passes here.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def printable_line(text: str) -> str:
    """`text` as one printable line: a line feed in a name that it quotes is shown as '\\n'."""
    return printable(text.strip("\n")).replace("\n", "\\n")


def printable_name(name: str) -> str:
    """A file name on one line: every character that cannot be printed as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def few(items: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """'a, b, c and 2 more': the first `most` of them, and how many there are beside."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def last_line(text: str, default: str) -> str:
    """The last line of a program's output that is not blank; `default` where it wrote nothing."""
    return (text.strip().splitlines() or [default])[-1]


class _Written:
    """What this process wrote: how many lines, and whether a moving line is on the terminal now."""

    lines = 0
    moving = False


def result(text: str) -> None:
    """A line of the command's result, on stdout."""
    clear_moving_line()
    _Written.lines += 1
    print(printable(text), flush=True)


def note(text: str) -> None:
    """A plain line on stderr."""
    clear_moving_line()
    _Written.lines += 1
    print(printable(text), file=sys.stderr, flush=True)


def lines_written() -> int:
    """How many lines `result`, `note` and what stands on them have written so far."""
    return _Written.lines


def moving_line(text: str) -> None:
    """Show a line on the terminal in the place of the last moving line; the next line clears it."""
    _Written.moving = True
    print(f"\r{printable_line(text)}\033[K", end="", file=sys.stderr, flush=True)


def clear_moving_line() -> None:
    """Take the moving line from the terminal."""
    if _Written.moving:
        _Written.moving = False
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A step begins: `==> text` on stderr."""
    note(printable_line(f"==> {text}"))


def warn(text: str) -> None:
    """A warning on stderr, in the words of the report: `warn  text`."""
    note(printable_line(f"warn  {text}"))


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


QUIET = 25.0  # seconds after which a stage that goes on says so, where there is no terminal


class _Lines:
    """tqdm's `update` and `close` as a line per 10 % and every 25 s, where there is no terminal."""

    def __init__(self, total: int | None, what: str, unit: str):
        self.total, self.what, self.unit = total, what, unit
        self.n, self.shown, self.began = 0, 0, time.monotonic()
        self.last = self.began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, n: float = 1) -> None:
        self.n += n
        tenth, now = int(10 * self.n / self.total) if self.total else 0, time.monotonic()
        late = now - self.last >= QUIET
        if late or (tenth > self.shown and now - self.began > 2):
            self.shown, self.last = tenth, now
            if not self.total:
                note(f"{self.what}: {self.n:,.0f} {self.unit}")
                return
            percent = 100 * self.n / self.total if late else tenth * 10
            note(f"{self.what}: {percent:.0f} % ({self.n:,.0f} of {self.total:,.0f} {self.unit})")

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Only a terminal shows it."""

    def close(self) -> None:
        """Nothing to tidy."""


def progress(total: int | None, what: str, unit: str = "it", **kwargs):
    """A tqdm bar on a terminal; elsewhere, after two seconds, a line per 10 % and every 25 s.

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
        stdout_was_unread, stderr_is_closed = _drop_unread(sys.stdout), _has_no_reader(sys.stderr)
        code = FAILED if stderr_is_closed and not stdout_was_unread else GOOD
    except (Problem, OSError) as error:
        if os.environ.get("TANDEM_DEBUG"):
            raise
        code = getattr(error, "code", FAILED)
        with contextlib.suppress(BrokenPipeError):
            note(printable_line(f"{program()}: {_message(error)}"))
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
    _drop_unread(sys.stderr)  # what nobody read must not change the exit code
    sys.exit(code)


def _has_no_reader(stream) -> bool:
    """Whether the reader of a pipe has closed it."""
    if stream is None:  # it was closed before the command began
        return False
    poller = select.poll()
    poller.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


def _drop_unread(stream) -> bool:
    """Drop what a closed pipe did not take; whether there was anything."""
    try:
        if stream:
            stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _message(error: Exception) -> str:
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        text = f"{named}{error.strerror or error}"
        remedies = {28: "free space on that disk", 13: "check the permissions"}
        remedy = remedies.get(error.errno or 0)
        return f"{text}; {remedy}" if remedy else text
    return str(error)
