"""How a cluster is reached: its ssh configuration, its password, what ssh's refusals mean."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from checks import rsync_tool
from embeddings.credentials import Cluster
from kit import console
from transfer import refusals, ssh_configuration

HELPER = Path(__file__).with_name("askpass.py")


class ClusterDown(console.Problem):
    """The cluster does not answer, or not as one. `final`: another try cannot help."""

    final = False


def config(cluster: Cluster, socket: Path, accept_new: bool) -> str:
    """The ssh configuration for one cluster: our settings first (ssh takes the first value)."""
    own = []
    if cluster.address:
        own = [f"Host {cluster.name}", f"HostName {cluster.address}", f"User {cluster.username}",
               f"Port {cluster.port}"]  # fmt: skip
        if cluster.key_file:
            key = str(cluster.key_file).replace("%", "%%")
            own += [f'IdentityFile "{key}"', "IdentitiesOnly yes"]
        if cluster.secret:
            own += ["PreferredAuthentications password,keyboard-interactive"]
            own += ["PubkeyAuthentication no", "BatchMode no"]
    common = ssh_configuration.ssh_config(socket.parent, accept_new, password=False).splitlines()
    dropped = ("ControlMaster", "ControlPath", "ControlPersist")
    shared = [line for line in common if not line.startswith(dropped)]
    ours = ["Host *", "ControlMaster no", f"ControlPath {socket}", "ForwardAgent no",
            "ForwardX11 no", "ClearAllForwardings yes"]  # fmt: skip
    return "\n".join([*own, *ours, *shared, ""])


def private_prefix() -> str:
    """The prefix of this command's folder of ssh configurations, by which a sweep finds it."""
    ssh_configuration.sweep()  # what a killed command left
    return f"{Path(ssh_configuration.PRIVATE).name}{os.getpid()}."


def offer_password(cluster: Cluster, helper: Path) -> dict[str, str]:
    """Variables that let ssh run askpass.py on the 0600 file: argv has only its name."""
    words = map(shlex.quote, (sys.executable, "-I", "-S", str(HELPER), str(cluster.secret)))
    return ssh_configuration.password_helper(helper, f'exec {" ".join(words)} "$1"')


def down(cluster: Cluster, stderr: str) -> ClusterDown:
    """What ssh's last words mean, in one line with a remedy."""
    name = cluster.name
    if refusal := refusals.explain(name, 255, stderr):
        remedy = refusal.remedy
        if refusal.refusal.login and cluster.address:
            remedy = f"check username and password or key_file in {name}.credentials"
        problem = ClusterDown(refusal.text, remedy)
        problem.final = refusal.refusal.final
        return problem
    return ClusterDown(f"{name}: no connection ({last_line(stderr)})", f"try: ssh {name} true")


def last_line(text: str) -> str:
    """The last line that says something, up to 500 characters of it."""
    return refusals.last_line(text)[:500]


def local_rsync() -> str | None:
    """The rsync of this machine, None if there is none."""
    tool = rsync_tool.choose()
    return tool[0] if tool else None


def rsync_command(tool: str, config_file: Path, listed: Path, source: str, into: Path) -> list[str]:
    """One rsync for the files in `listed`: regular files alone, whole or in a partial folder."""
    return [tool, "-t", "--partial-dir=.rsync-partial", "--timeout=60", "--from0",
            f"--files-from={listed}", "-e", f"ssh -F '{config_file}'",
            source, f"{into}/"]  # fmt: skip
