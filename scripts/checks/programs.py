"""ssh and rsync: asked what they can do, never for their version."""

from __future__ import annotations

import os
import shutil

from checks.probe import StartedPrograms
from kit.report import Check

CORE = ["-rlt", "--partial-dir=.rsync-partial", "--timeout=60", "--from0", "--files-from=-"]
SSH = ["-o", "Ciphers=^aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=accept-new"]


def rsync() -> str | None:
    """The rsync that a transfer uses: $RSYNC, Homebrew's, the one on PATH."""
    named = os.environ.get("RSYNC")
    names = [named] if named else ["/opt/homebrew/bin/rsync", "/usr/local/bin/rsync", "rsync"]
    return next((found for name in names if (found := shutil.which(name))), None)


def commands() -> dict[str, list[str]]:
    """The probes of what is there; none has an effect."""
    found = {"tar": ["tar", "--version"]}
    if tool := rsync():
        found["rsync core"] = [tool, *CORE, "--version"]
        found["rsync progress"] = [tool, "--info=progress2", "--version"]
    if shutil.which("ssh"):
        found["ssh"] = ["ssh", "-G", "-F", os.devnull, *SSH, "localhost"]
        found["ssh plain"] = ["ssh", "-G", "-F", os.devnull, "localhost"]
    return found


def checks(running: StartedPrograms, env: str) -> list[Check]:
    """What the probes said."""
    return [_rsync(running), *([_ssh(running)] if env == "local" else [_tmux()])]


def _rsync(running: StartedPrograms) -> Check:
    tool = rsync()
    install = "apt-get install rsync, brew install rsync, or conda install rsync"
    if tool is None:
        named = os.environ.get("RSYNC")
        text = f"RSYNC={named} is no program" if named else "not installed: no transfer works"
        return Check("rsync", "fail", text, f"unset RSYNC, or {install}" if named else install)
    if running.answer("rsync core").code != 0:
        return Check("rsync", "fail", f"{tool} lacks options that transfers need", install)
    modern = running.answer("rsync progress").code == 0
    return Check(
        "rsync", "ok", f"{tool}, " + ("rsync 3" if modern else "openrsync: plain progress")
    )


def _ssh(running: StartedPrograms) -> Check:
    install = "install OpenSSH's client (apt-get install openssh-client)"
    if not shutil.which("ssh"):
        return Check("ssh", "warn", "not installed: HOST can only be a folder", install)
    if running.answer("ssh plain").code != 0:
        return Check("ssh", "fail", "does not run", install)
    if running.answer("ssh").code != 0:
        text = "old: does not take a preferred cipher or accept-new (OpenSSH 8 does)"
        return Check("ssh", "warn", text, "update OpenSSH's client")
    agent = "agent there" if os.environ.get("SSH_AUTH_SOCK") else "no agent"
    return Check("ssh", "ok", f"takes aes128-gcm and accept-new, {agent}")


def _tmux() -> Check:
    if shutil.which("tmux"):
        return Check("tmux", "ok", "there: a run started by hand survives a lost connection")
    return Check("tmux", "skip", "not there: a run started by hand ends with its connection")
