"""The ssh configuration of one command: its own settings first, then the user's files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kit import console
from transfer.frame import seconds_of

LONGEST = 86400  # seconds that ssh is told
PRIVATE = "/tmp/td."  # short: macOS allows 104 bytes for the path of a control socket


def timeout() -> str:
    """Seconds to wait for a first answer: TANDEM_SSH_TIMEOUT, else 10."""
    return f"{min(max(1, seconds_of('TANDEM_SSH_TIMEOUT', 10)), LONGEST):.0f}"


def user_files() -> list[str]:
    """The user's configuration files, in the order in which ssh reads them."""
    extra = os.environ.get("TANDEM_SSH_CONFIG")
    if extra and not Path(extra).is_file():
        raise console.Misuse(f"TANDEM_SSH_CONFIG: no file {extra}", "name an ssh configuration")
    mine = [os.path.abspath(extra)] if extra else []
    return [*mine, "~/.ssh/config", "/etc/ssh/ssh_config"]


def ssh_config(
    private: Path, accept_new: bool, password: bool, control: list[str] | None = None
) -> str:
    """The file's text. ssh takes the first value it reads, so ours come first.

    control: the lines about shared connections, where they are not this command's own.
    """
    if control is None:
        control = ["ControlMaster auto", f"ControlPath {private}/c.%C", "ControlPersist 60"]
    included = user_files()
    return "\n".join(
        [
            f"BatchMode {'no' if password else 'yes'}",
            "NumberOfPasswordPrompts 1",
            f"ConnectTimeout {timeout()}",
            f"ServerAliveInterval {min(seconds_of('TANDEM_SSH_ALIVE', 15), LONGEST):.0f}",
            "ServerAliveCountMax 4",
            f"StrictHostKeyChecking {'accept-new' if accept_new else 'yes'}",
            "Ciphers ^aes128-gcm@openssh.com",
            *control,
            "RequestTTY no",
            "RemoteCommand none",
            "PermitLocalCommand no",
            "ForwardAgent no",
            "ForwardX11 no",
            "ClearAllForwardings yes",  # a port that another session holds would end this one
            "LogLevel ERROR",
            *(f'Include "{path}"' if " " in path else f"Include {path}" for path in included),
            "",
        ]
    )


def offer_password(private: Path) -> dict[str, str]:
    """The variables that let ssh ask a helper in `private` for the user's password.

    The helper reads TANDEM_SSH_PASSWORD_FILE (owner-only) or TANDEM_SSH_PASSWORD; {} for neither.
    """
    kept = os.environ.get("TANDEM_SSH_PASSWORD_FILE")
    if not kept and not os.environ.get("TANDEM_SSH_PASSWORD"):
        return {}
    if kept:
        try:
            mode = Path(kept).stat().st_mode
        except OSError as error:
            raise console.Misuse(
                f"TANDEM_SSH_PASSWORD_FILE: {kept}: {error.strerror}", "name a file"
            ) from None
        if mode & 0o077:
            raise console.Misuse(
                f"TANDEM_SSH_PASSWORD_FILE: others can read {kept}", f"chmod 600 {kept}"
            )
    source = 'cat "$TANDEM_SSH_PASSWORD_FILE"' if kept else 'printf "%s\\n" "$TANDEM_SSH_PASSWORD"'
    return password_helper(private / "askpass", source)


def password_helper(file: Path, command: str) -> dict[str, str]:
    """Write a script that prints a password, and return the variables that let ssh run it."""
    file.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    file.chmod(0o700)
    display = os.environ.get("DISPLAY") or ":0"  # OpenSSH before 8.4 asks a helper only with one
    return {"SSH_ASKPASS": str(file), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": display}


def private_folder() -> Path:
    """A new folder with a short path that only this user can read."""
    private = Path(f"{PRIVATE}{os.getpid()}.{os.urandom(4).hex()}")
    private.mkdir(0o700)
    return private


def remove(private: Path) -> None:
    """Remove a private folder, as far as that can be done."""
    import shutil  # 2 ms, which the login does not wait for

    shutil.rmtree(private, ignore_errors=True)


def sweep() -> None:
    """Remove the private folders that killed commands of this user left."""
    folder, _, prefix = PRIVATE.rpartition("/")
    for name in os.listdir(folder):
        pid = name.removeprefix(prefix).split(".")[0]
        if not name.startswith(prefix) or not pid.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"{folder}/{name}").st_uid == os.getuid():
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    remove(Path(f"{folder}/{name}"))
