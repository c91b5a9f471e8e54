"""What the host has, in one ssh: tools, disk, GPU."""

from __future__ import annotations

from kit import console
from kit.report import Check, report
from transfer import tree
from transfer.host import Host, open_host, quote

SCRIPT = """
printf 'system %s\\n' "$(uname -sm)"
printf 'hash %s\\n' "$(far_tool)"
printf 'progress %s\\n' "$(rsync --info=progress2 --version >/dev/null 2>&1 && echo yes)"
printf 'kit %s\\n' "$([ -f "$root/scripts/paths.py" ] && echo yes)"
for python in python3 python3.10 python3.11 python3.12 python3.13; do
  version=$($python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) &&
    { printf 'python %s\\n' "$version"; break; }
done
for tool in make tmux conda mamba micromamba; do
  printf '%s %s\\n' $tool "$(command -v $tool || true)"
done
printf 'gpu %s\\n' "$(nvidia-smi --query-gpu=name,memory.total,driver_version \\
  --format=csv,noheader 2>/dev/null | head -n 8 | tr '\\n' ';')"
exit 0
"""


def look(host: Host) -> dict[str, str]:
    """{name: what was found, '' for nothing}"""
    head = f"LC_ALL=C; export LC_ALL; root={quote(host.root)}\n"
    output = host.run(head + tree.FACTS + tree.HASH + SCRIPT).decode(errors="replace")
    return dict(line.partition(" ")[::2] for line in output.splitlines())


def checks(host: Host, found: dict[str, str]) -> list[Check]:
    """The findings as checks; only what a sync or a set-up needs can fail."""
    apt = "sudo apt-get install -y {0}, or conda install -c conda-forge {0}".format

    def tool(name: str, value: str, status: str, fix: str) -> Check:
        return Check(name, "ok" if value else status, value or "missing", "" if value else fix)

    free = int(found.get("free") or 0) * 1024
    low = free < 20 << 30
    gpus = found.get("gpu", "").strip("; ")
    keeper = found.get("conda") or found.get("mamba") or found.get("micromamba") or ""
    capable = "" if found.get("progress") else " (only what openrsync knows, too)"
    where = found.get("rsync", "")
    hashed = found.get("hash", "").replace("none", "")
    return [
        Check("host", "ok", f"{host.name}, {found.get('system', '?')}"),
        tool("rsync", where and where + capable, "fail", apt("rsync")),
        tool("SHA-256", hashed, "fail", apt("openssl")),
        tool("python", found.get("python", ""), "warn", apt("python3")),
        tool("make", found.get("make", ""), "warn", apt("make")),
        tool("tmux", found.get("tmux", ""), "skip", ""),
        tool("conda", keeper, "skip", ""),
        Check(
            "disk",
            "warn" if low else "ok",
            f"{console.size(free)} free at {host.place}",
            "free space: a base model and its checkpoints need 20 GB or more" if low else "",
        ),
        tool("writable", found.get("writable", ""), "fail", "check the folder's owner"),
        tool("GPU", gpus, "warn", "no nvidia-smi there; rehearse on a CPU with --allow-cpu"),
        tool("kit", found.get("kit", ""), "skip", ""),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Look at what the host has.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--accept-new-host-key", action="store_true")
    args = parser.parse_args(argv)
    with open_host(args.host, args.accept_new_host_key) as host:
        found = look(host)
        return report(checks(host, found), args.json, host=host.name, facts=found)
