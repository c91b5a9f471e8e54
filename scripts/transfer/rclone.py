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
import shutil
import subprocess
import threading
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
    Meaning("unknown flag", "this rclone is too old", f"1.60 or newer: {INSTALL}"),
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
        code, out, messages = _once(words, data, limit, progress)
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
    """One run: exit code, stdout (at most limit + 1 bytes), error messages."""
    command = [program(), *words, *COMMON, "--timeout", f"{patience():.0f}s"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        messages: list[str] = []
        readers = [
            threading.Thread(target=_read_log, args=(process, messages, progress), daemon=True),
            threading.Thread(target=_feed, args=(process, data), daemon=True),
        ]
        for reader in readers:
            reader.start()
        with ended_with_us(process):
            out = process.stdout.read(limit + 1)
            if len(out) > limit:
                process.terminate()
            code = process.wait()
        readers[0].join()
    return code, out, messages


def _feed(process: subprocess.Popen, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.write(data)
        process.stdin.close()


def _read_log(process: subprocess.Popen, messages: list[str], progress) -> None:
    """Keep error messages, hand on how many bytes were moved. Lines that are no JSON count too."""
    kept = 0
    while line := process.stderr.readline(1 << 16):
        try:
            record = json.loads(line)
            level, text = record["level"], str(record["msg"])
        except (ValueError, KeyError, TypeError):
            record, level, text = {}, "error", line.decode(errors="replace")
        if isinstance(stats := record.get("stats"), dict):
            if progress and isinstance(stats.get("bytes"), int):
                progress(stats["bytes"])
        elif level not in ("info", "debug") and kept < STDERR_BYTES:
            kept += len(text)
            messages.append(text)
