"""Which rsync a transfer uses and what it can do: asked by a probe, never read off its version."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from kit import console

# Options that rsync 3 and Apple's openrsync share. No -l: only regular files are asked for.
CORE = ("-rt", "--partial-dir=.rsync-partial", "--timeout=60", "--from0")
PROGRESS = "--info=progress2"  # rsync 3 alone knows it
HOMEBREW = ("/opt/homebrew/bin/rsync", "/usr/local/bin/rsync")
INSTALL = "apt-get install rsync, brew install rsync, or conda install -c conda-forge rsync"
PROBE_SECONDS = 10  # in which an rsync has to print its version


def installed() -> list[str]:
    """The rsyncs on this machine in order of preference: $RSYNC alone, or Homebrew's and PATH's."""
    named = os.environ.get("RSYNC")
    candidates = [named] if named else [*HOMEBREW, "rsync"]
    return [path for path in map(shutil.which, candidates) if path]


def missing() -> str:
    """Why `installed` is empty, in words."""
    named = os.environ.get("RSYNC")
    return f"RSYNC={named} is no program" if named else "rsync is not installed here"


def choose() -> tuple[str, bool] | None:
    """(the rsync to use, whether it knows PROGRESS); None where none answers."""
    plain = None
    for path in installed():
        knows_progress = _knows_progress(path)
        if knows_progress:
            return path, True
        if knows_progress is not None:
            plain = plain or path
    return (plain, False) if plain else None


@functools.cache
def _knows_progress(path: str) -> bool | None:
    """Whether this rsync knows PROGRESS; None, and a warning, where it does not answer."""
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        probe = [path, PROGRESS, "--version"]
        return subprocess.run(probe, check=False, timeout=PROBE_SECONDS, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        console.warn(f"{path} gives no answer to --version within {PROBE_SECONDS} s: not used")
        return None
