"""Logins that need more than a key: a code, a push to a phone, a password.

Nobody can type one for every command, so a connection that is logged in already is used: the user's
own master (ControlPath in ~/.ssh/config), or one that was offered here once, on a terminal, and is
kept for some hours in a folder that only this user can read.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from kit import console
from transfer.refusals import Refused

FOLDER = "/tmp/td-login."  # and the user's number; short, as macOS allows 104 bytes for a socket
KEPT_FOR = "8h"  # without use
CHECK_SECONDS = 5  # a master that does not answer in this time is none


def control_lines(private: Path, name: str, included: list[str]) -> list[str] | None:
    """The configuration's lines for a connection that is logged in already; None without one.

    included: the user's configuration files.
    """
    if _mentions_master(included) and _is_alive(private, name, included):
        return []  # the user's ControlPath holds
    if (
        _folder().exists()
        and (socket := kept_socket(name)).exists()
        and _is_alive(private, name, included, socket)
    ):
        return ["ControlMaster no", f"ControlPath {socket}"]
    return None


def _mentions_master(included: list[str]) -> bool:
    """Whether a file of the user's names a ControlPath, or another file: then ssh is asked."""
    for file in included:
        with contextlib.suppress(OSError, ValueError):
            text = Path(file).expanduser().read_text(encoding="utf-8", errors="replace").lower()
            own = not file.startswith("/etc/")
            if "controlpath" in text or (own and re.search(r"^\s*include\b", text, re.MULTILINE)):
                return True
    return False


def user_config(private: Path, included: list[str]) -> Path:
    """A configuration that holds the user's files alone."""
    file = private / "user"
    lines = [f'Include "{path}"' if " " in path else f"Include {path}" for path in included]
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return file


def _is_alive(private: Path, name: str, included: list[str], socket: Path | None = None) -> bool:
    """Whether a master serves `name`: by the user's ControlPath, or at `socket`."""
    command = ["ssh", "-F", str(user_config(private, included))]
    command += ["-o", f"ControlPath={socket}"] if socket else []
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        return subprocess.run(
            [*command, "-O", "check", name], timeout=CHECK_SECONDS, check=False, **quiet
        ).returncode == 0  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False


def _folder() -> Path:
    return Path(f"{FOLDER}{os.getuid()}")


def kept_socket(name: str) -> Path:
    """Where a login that was offered here is kept, one for each name and configuration."""
    import hashlib  # 3 ms, which most logins need not wait for

    words = f"{name}\0{os.environ.get('TANDEM_SSH_CONFIG', '')}"
    return _folder() / hashlib.sha256(words.encode()).hexdigest()[:16]


def may_be_offered(problem: console.Problem) -> bool:
    """Whether the login was refused for want of a password or a code, and somebody can type one."""
    asked = isinstance(problem, Refused) and problem.wants_more
    return asked and sys.stdin.isatty() and sys.stderr.isatty()


def offer(private: Path, name: str, included: list[str], accept_new: bool) -> bool:
    """Let the user log in once; whether the connection is there now, and kept."""
    socket = kept_socket(name)
    _own_folder(socket.parent)
    socket.unlink(missing_ok=True)
    console.note(f"{name} asks for a password or a code: log in once; it is kept for {KEPT_FOR} "
                 f"(to end it: ssh -o ControlPath={socket} -O exit {name})")  # fmt: skip
    options = ["BatchMode=no", "ControlMaster=yes", f"ControlPath={socket}",
               f"ControlPersist={KEPT_FOR}", "ServerAliveInterval=15", "ServerAliveCountMax=4",
               "ClearAllForwardings=yes", "ForwardAgent=no", "PermitLocalCommand=no",
               "RemoteCommand=none", "LogLevel=ERROR",
               f"StrictHostKeyChecking={'accept-new' if accept_new else 'yes'}"]  # fmt: skip
    words = [word for option in options for word in ("-o", option)]
    command = ["ssh", "-F", str(user_config(private, included)), *words, "-N", "-f", name]
    return subprocess.call(command, stdout=subprocess.DEVNULL) == 0 and socket.exists()


def _own_folder(folder: Path) -> None:
    """Make the folder; Problem where it is somebody else's or others can write to it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise console.Problem(
            f"{folder} is not a folder of this user's alone", f"remove it: rm -r {folder}"
        )
