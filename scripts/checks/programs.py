"""ssh and rsync: asked what they can do, never for their version."""

from __future__ import annotations

import os
import shutil

from checks import rsync_tool
from checks.probe import StartedPrograms
from kit.report import Check

SSH = ["-o", "Ciphers=^aes128-gcm@openssh.com", "-o", "StrictHostKeyChecking=accept-new"]


def commands() -> dict[str, list[str]]:
    """The probes of what is there; none has an effect."""
    commands_by_name = {"tar": ["tar", "--version"]}
    if tool := next(iter(rsync_tool.installed()), None):
        commands_by_name["rsync core"] = [tool, *rsync_tool.CORE, "--files-from=-", "--version"]
        commands_by_name["rsync progress"] = [tool, rsync_tool.PROGRESS, "--version"]
    if shutil.which("ssh"):
        commands_by_name["ssh"] = ["ssh", "-G", "-F", os.devnull, *SSH, "localhost"]
        commands_by_name["ssh plain"] = ["ssh", "-G", "-F", os.devnull, "localhost"]
    return commands_by_name


def checks(running: StartedPrograms, env: str) -> list[Check]:
    """What the probes said."""
    return [_rsync(running), *([_ssh(running)] if env == "local" else [_tmux()])]


def _rsync(running: StartedPrograms) -> Check:
    tool = next(iter(rsync_tool.installed()), None)
    if tool is None:
        if named := os.environ.get("RSYNC"):
            fix = f"unset RSYNC, or {rsync_tool.INSTALL}"
            return Check("rsync", "fail", f"RSYNC={named} is no program", fix)
        text = "not installed: an ssh host is served by tar, slower; a folder needs none"
        return Check("rsync", "warn", text, rsync_tool.INSTALL)
    if running.answer("rsync core").code != 0:
        text = f"{tool} lacks options that transfers need"
        return Check("rsync", "fail", text, rsync_tool.INSTALL)
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
