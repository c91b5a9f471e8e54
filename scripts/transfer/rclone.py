"""Runs rclone: which program it is, what its errors mean, what it must never print.

    rclone.run(["lsjson", "s3:name/path"], limit=1 << 20)

Remotes and their secrets are rclone's own (`rclone config`, or RCLONE_CONFIG_… variables): none is
ever an argument, and what rclone prints is cleared of them before it is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable

from kit import console
from transfer.child_process import ended_with_us
from transfer.frame import patience
from transfer.received_files import MORE
from transfer.retries import TRIES, ConnectionLost, wait_to_retry

INSTALL = "apt-get install rclone, brew install rclone, or conda install -c conda-forge rclone"
# No question is asked, no progress is drawn; every message is one JSON object on stderr.
COMMON = ("--use-json-log", "--log-level", "NOTICE", "--stats-log-level", "NOTICE", "--stats", "1s",
          "--ask-password=false", "--retries", "1", "--low-level-retries", "3",
          "--contimeout", "10s")  # fmt: skip
SHOWN = 160  # letters of rclone's message, of its end: the cause stands last
STDERR_BYTES = 1 << 20  # of rclone's messages that are kept
LINE_BYTES = 1 << 16  # of one message
LAST_SECONDS = 5  # for its last messages, once it has ended
_SECRET_NAME = re.compile(r"(KEY|SECRET|PASS|TOKEN|CREDENTIAL)", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/@\s]+@|(?<=[?&])(?i:[\w-]*(?:signature|credential|token|sig|key))"
                     r"=[^&\s\"]+")  # fmt: skip


class Meaning:
    """What a pattern in rclone's messages means; `again`: another try may help."""

    def __init__(self, pattern: str, text: str, remedy: str, misuse: bool = False, again=False):
        self.pattern = re.compile(pattern, re.IGNORECASE)
        self.text, self.remedy, self.misuse, self.again = text, remedy, misuse, again


# The first that matches counts. REMOTE is filled in.
MEANINGS = (
    Meaning(
        "didn't find section in config|config file .* not found",
        "rclone has no remote of the name REMOTE",
        "rclone listremotes shows those it has, rclone config makes one", misuse=True,
    ),
    Meaning(
        "unable to decrypt configuration|config.* encrypted|password is required to decrypt",
        "rclone's configuration is encrypted and no password is set",
        "set RCLONE_CONFIG_PASS, or RCLONE_PASSWORD_COMMAND",
    ),
    Meaning(
        "NoSuchBucket|specified bucket does not exist|bucket .*not found",
        "there is no such bucket", "check the name: rclone lsd REMOTE: lists them", misuse=True,
    ),
    Meaning(
        r"SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied|Access Denied|StatusCode: 40[13]"
        r"|\b40[13] (?:Forbidden|Unauthorized)|Unauthorized|invalid_grant|token expired"
        "|no EC2 IMDS role|NoCredentialProviders|failed to refresh cached credentials",
        "it refused the keys of the remote REMOTE",
        "correct them in rclone config (or the RCLONE_CONFIG_… or AWS_… variables); "
        "rclone lsd REMOTE: must work",
    ),
    Meaning(
        "no space left|insufficient storage|quota ?exceeded|QuotaExceeded|storageQuota",
        "no space is left", "free space, here or in the bucket, then run it again",
    ),
    Meaning("412 Precondition", "this rclone replaces no file there", f"a newer one: {INSTALL}"),
    Meaning("unknown flag|unknown command", "this rclone is too old", f"1.60 or newer: {INSTALL}"),
    Meaning(
        "max transfer limit reached", MORE,
        "look at what writes there, then run it again",
    ),
    Meaning(
        "connection refused|no such host|i/o timeout|timed? ?out|connection reset|broken pipe"
        "|EOF|request send failed|TLS handshake|StatusCode: 5|SlowDown|network is unreachable",
        "the connection failed",
        "check the network and the remote's endpoint: rclone lsd REMOTE: must work; then run the "
        "same command again, it goes on where it stopped", again=True,
    ),
)  # fmt: skip


def program() -> str:
    """The rclone to use: RCLONE, else the one in PATH."""
    named = os.environ.get("RCLONE")
    path = shutil.which(named or "rclone")
    if not path:
        missing = f"RCLONE={named} is no program" if named else "rclone is not installed here"
        raise console.Problem(missing, f"a bucket needs it: {INSTALL}")
    return path


def without_secrets(text: str) -> str:
    """`text` without the values of secret variables and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) > 5 and name.startswith(("RCLONE_", "AWS_")) and _SECRET_NAME.search(name):
            text = text.replace(value, "…")
    return _IN_URL.sub("…", text)


class RcloneFailed(console.Problem):
    """rclone ended with another code than 0: `exit_code`."""

    def __init__(self, problem: console.Problem, exit_code: int):
        super().__init__(problem.text, problem.remedy, problem.code)
        self.exit_code = exit_code


def run(
    words: list[str],
    place: str,
    data: bytes = b"",
    limit: int = 1 << 20,
    progress: Callable[[int], object] | None = None,
    retry: bool = True,
) -> bytes:
    """rclone's stdout. `place`: the bucket, for messages; `progress` gets the bytes moved so far.

    retry: take a lost connection up again, five times. RcloneFailed where it is given up.
    """
    tries = 0
    while True:
        try:
            code, out, messages = _once(words, data, limit, progress)
        except SilentProgram as silent:
            raise console.Problem(
                f"{place}: {silent}", f"look what it waits for: rclone lsd {place} -vv"
            ) from None
        if code == 0 and len(out) <= limit:
            return out
        if len(out) > limit:
            raise console.Problem(
                f"{place}: an answer longer than {limit >> 20} MB", "look at what lies there"
            )
        problem, again = explain(place, code, messages)
        tries += 1
        if not (again and retry) or tries > TRIES:
            raise RcloneFailed(problem, code)
        wait_to_retry(place, ConnectionLost(problem.text, problem.remedy), tries)


def explain(place: str, code: int, messages: list[str]) -> tuple[console.Problem, bool]:
    """(what rclone's failure means, whether another try may help)."""
    complaint = without_secrets(next(iter(messages), "it said nothing")).strip()
    complaint = " ".join(complaint.split())
    complaint = complaint if len(complaint) < SHOWN else f"…{complaint[-SHOWN:]}"
    for meaning in MEANINGS:
        if any(meaning.pattern.search(message) for message in messages):
            remote = place.partition(":")[0]
            text, remedy = (t.replace("REMOTE", remote) for t in (meaning.text, meaning.remedy))
            shown = "" if meaning.misuse else f" ({complaint})"
            kind = console.Misuse if meaning.misuse else console.Problem
            return kind(f"{place}: {text}{shown}", remedy), meaning.again
    remedy = f"rclone lsd {place} shows what is wrong; then run the same command again"
    return console.Problem(f"{place}: rclone ended with {code} ({complaint})", remedy), code == 5


def _once(
    words: list[str], data: bytes, limit: int, progress: Callable[[int], object] | None
) -> tuple[int, bytes, list[str]]:
    """One run: exit code, stdout (at most limit + 1 bytes), error messages.

    SilentProgram for one that gives no sign for patience() seconds: --stats makes it speak.
    """
    command = [program(), *words, *COMMON, "--timeout", f"{patience():.0f}s"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        log = RcloneLog(process, progress)
        threading.Thread(target=_feed, args=(process, data), daemon=True).start()
        with ended_with_us(process):
            out = log.read_output(limit + 1)
            if len(out) > limit:
                process.kill()
            code = process.wait()
        log.end()
    return code, out, log.messages


def _feed(process: subprocess.Popen, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.write(data)
        process.stdin.close()


class SilentProgram(Exception):
    """rclone printed nothing for too long; the text says for how long."""


class RcloneLog(threading.Thread):
    """Reads what an rclone says: keeps error messages, hands on how many bytes were moved."""

    def __init__(self, process: subprocess.Popen, progress: Callable[[int], object] | None):
        super().__init__(daemon=True)
        self.process, self.progress = process, progress
        self.messages: list[str] = []
        self._kept = 0  # bytes of them
        self._heard = time.monotonic()  # its last sign on either stream
        self._over = False
        self._stream = os.dup(process.stderr.fileno())  # the thread's own: nobody closes it early
        self.start()

    def run(self) -> None:
        rest = b""
        while not self._over and (chunk := os.read(self._stream, 1 << 16)):
            self._heard = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines if len(rest) < LINE_BYTES else [*lines, rest]:
                self._take(line)
            rest = rest if len(rest) < LINE_BYTES else b""
        os.close(self._stream)
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        """One message; a line that is no JSON counts as an error."""
        try:
            record = json.loads(line)
            level, text = record["level"], str(record["msg"])
        except (ValueError, KeyError, TypeError, RecursionError):
            record, level, text = {}, "error", line.decode(errors="replace")
        if isinstance(stats := record.get("stats"), dict):
            if self.progress and isinstance(stats.get("bytes"), int):
                self.progress(stats["bytes"])
        elif level not in ("info", "debug") and self._kept < STDERR_BYTES:
            self._kept += len(text)
            self.messages.append(text)

    def end(self) -> None:
        """Wait for the last messages; not for a program that rclone left behind."""
        self.join(LAST_SECONDS)
        self._over = True

    def read_output(self, most: int) -> bytes:
        """At most `most` bytes of its stdout, until it ends; SilentProgram where it does not."""
        stream, out = self.process.stdout.fileno(), bytearray()
        while len(out) < most:
            ready, _, _ = select.select([stream], [], [], 0.25)
            if ready:
                self._heard = time.monotonic()
                if not (chunk := os.read(stream, min(1 << 18, most - len(out)))):
                    break
                out += chunk
            self._check_silence()
        while len(out) < most and self.process.poll() is None:  # it closed its stdout, no more
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.25)
            self._check_silence()
        return bytes(out)

    def _check_silence(self) -> None:
        if time.monotonic() - self._heard > patience():
            self._over = True
            raise SilentProgram(f"rclone gave no sign for {patience():.0f} s")
