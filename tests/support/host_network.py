"""Hosts in network namespaces of their own, joined by a bridge: links that fail, hosts that reboot.

Each host has an address, a hostname, a process tree and an sshd (tests/sshd.sh). The laptop is one
of them, so nothing outside the namespaces changes. Wants root and iproute2 on Linux.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.checkout import ROOT
from support.processes import wait_until

# Process 1 of a host: starts its sshd, collects what ends, and takes all with it when it is killed.
BOOT = """
ip link set lo up
hostname {name}
if [ -f '{folder}/sshd_config' ]; then rm -f '{folder}/sshd.pid'
  /usr/sbin/sshd -f '{folder}/sshd_config' -E '{folder}/sshd.log'
else '{sshd}' start '{folder}' --alias {name} --address {address} >/dev/null; fi
while :; do sleep 3600 & wait $!; done
"""


def skip_unless_possible() -> None:
    """Skip the test with a plain word where namespaces cannot be made."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        pytest.skip("network namespaces want root on Linux")
    for tool in ("ip", "unshare", "nsenter"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} here; apt-get install iproute2 util-linux")
    sshd = subprocess.run([ROOT / "tests" / "sshd.sh", "available"], capture_output=True, text=True)
    if sshd.returncode:
        pytest.skip(sshd.stdout.strip())
    sweep()
    probe = f"td{os.getpid()}p"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        pytest.skip("this machine makes no network namespaces (ip netns add is refused)")
    subprocess.run(["ip", "netns", "del", probe], check=True)


def sweep() -> None:
    """Remove the namespaces of test processes that were killed, with what still runs in them."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name in (line.split()[0] for line in listed.splitlines() if line.strip()):
        owner = re.match(r"td(\d+)", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class NetworkHost:
    """One host of a network."""

    def __init__(self, network: HostNetwork, name: str, number: int):
        self.network, self.name = network, name
        self.address = f"10.9.0.{number}"
        self.namespace = f"{network.prefix}{name}"
        self.outer = f"v{number}"  # its end of the cable at the bridge
        self.folder = network.place / name
        self.home = self.folder / "home"
        self.process: subprocess.Popen | None = None

    def enter(self) -> list[str]:
        """The words before a command that runs in this host's network."""
        return ["ip", "netns", "exec", self.namespace]

    def boot(self) -> None:
        """Start it: a process tree of its own and an sshd."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.folder / "env").write_text(f"export TMUX_TMPDIR='{self.home}' OMP_NUM_THREADS=1\n")
        facts = {"name": self.name, "folder": self.folder, "address": self.address}
        script = BOOT.format(sshd=ROOT / "tests" / "sshd.sh", **facts)
        words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(
            [*self.enter(), *words, "bash", "-c", script], stdin=nothing, stdout=nothing,
            stderr=nothing, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: self._listens(), seconds=30, problem=f"{self.name} has no sshd")

    def _listens(self) -> bool:
        config = self.folder / "ssh_config"
        words = [*self.network.laptop.enter(), "ssh", "-F", str(config), self.name, "true"]
        return config.exists() and subprocess.run(words, capture_output=True).returncode == 0

    def power_off(self) -> None:
        """End all its processes at once, as a power cut does."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def reboot(self) -> None:
        """Power off and on again."""
        self.power_off()
        self.boot()

    def link(self, state: str) -> None:
        """up or down: both ends see it."""
        self.network.run("ip", "link", "set", self.outer, state)

    def black_hole(self, on: bool) -> None:
        """The link stays up, and nothing that is sent arrives."""
        self.network.run(
            "ip", "link", "set", self.outer, *(["nomaster"] if on else ["master", "br0"])
        )


class HostNetwork:
    """The hosts of these names and a laptop, for as long as the `with` block lasts."""

    def __init__(self, place: Path, names: tuple[str, ...]):
        skip_unless_possible()
        self.place, self.prefix = place, f"td{os.getpid()}-"
        self.laptop = NetworkHost(self, "laptop", 1)
        self.hosts = {name: NetworkHost(self, name, i) for i, name in enumerate(names, start=2)}

    def run(self, *words: str) -> None:
        """A command at the bridge."""
        subprocess.run(["ip", "netns", "exec", f"{self.prefix}b", *words], check=True)

    def __enter__(self) -> HostNetwork:
        try:
            subprocess.run(["ip", "netns", "add", f"{self.prefix}b"], check=True)
            self.run("ip", "link", "add", "name", "br0", "type", "bridge")
            self.run("ip", "link", "set", "br0", "up")
            for host in (self.laptop, *self.hosts.values()):
                self._plug(host)
            for host in self.hosts.values():
                host.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _plug(self, host: NetworkHost) -> None:
        subprocess.run(["ip", "netns", "add", host.namespace], check=True)
        self.run("ip", "link", "add", "name", host.outer, "type", "veth", "peer", "name", "e0",
                 "netns", host.namespace)  # fmt: skip
        self.run("ip", "link", "set", host.outer, "master", "br0", "up")
        for words in (("addr", "add", f"{host.address}/24", "dev", "e0"),
                      ("link", "set", "e0", "up"), ("link", "set", "lo", "up")):  # fmt: skip
            subprocess.run([*host.enter(), "ip", *words], check=True)

    def ssh_config(self) -> Path:
        """One ssh configuration with every host."""
        file = self.place / "ssh_config"
        texts = [(host.folder / "ssh_config").read_text() for host in self.hosts.values()]
        file.write_text("\n".join(texts))
        return file

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.power_off()
        for name in (self.laptop.namespace, *(h.namespace for h in self.hosts.values()),
                     f"{self.prefix}b"):  # fmt: skip
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
