"""What the host has, in one ssh: tools, disk, GPU."""

from __future__ import annotations

from kit import console
from kit.report import Check, report
from transfer import host_shell, refusals
from transfer.frame import AnswerLimits, patience
from transfer.host import Host, open_host, quote
from transfer.listing import read_facts

GPU_SECONDS = 20  # in which nvidia-smi has to answer
SCRIPT = """
printf 'system %s\\n' "$(uname -sm)"
printf 'hash %s\\n' "$(hash_tool)"
printf 'progress %s\\n' "$(rsync --info=progress2 --version >/dev/null 2>&1 && echo yes)"
printf 'kit %s\\n' "$([ -f "$root/scripts/paths.py" ] && echo yes)"
for python in python3 python3.10 python3.11 python3.12 python3.13; do
  version=$($python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) &&
    { printf 'python %s\\n' "$version"; break; }
done
for tool in make tmux conda mamba micromamba; do
  printf '%s %s\\n' $tool "$(command -v $tool || true)"
done
# A wedged driver never answers, and not even KILL ends what waits for it: it is left behind.
answer=$(mktemp 2>/dev/null || echo "/tmp/tandem-gpu.$$")
if command -v nvidia-smi >/dev/null 2>&1; then
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader \
    >"$answer" 2>/dev/null </dev/null & gpu=$!
  waited=0
  while kill -0 $gpu 2>/dev/null && [ $waited -lt SECONDS ]; do
    sleep 1; waited=$((waited + 1))
  done
  if kill -0 $gpu 2>/dev/null; then kill -9 $gpu; echo 'hanging yes'
  else printf 'gpu %s\\n' "$(head -n 8 "$answer" | tr '\\n' ';')"; fi
fi
rm -f "$answer"
exit 0
""".replace("SECONDS", str(GPU_SECONDS))


def look(host: Host) -> dict[str, str]:
    """{fact: value, '' for nothing}"""
    head = f"{host_shell.HEAD}root={quote(host.root)}\n"
    script = head + host_shell.FACTS + host_shell.HASH + SCRIPT
    output = host.run(
        script, limits=AnswerLimits(silence=patience() + GPU_SECONDS), repeatable=True
    )
    return read_facts(host, output.rstrip(b"\n"))


def checks(host: Host, facts: dict[str, str]) -> list[Check]:
    """The facts as checks; only what a sync or a set-up needs can fail."""
    apt = "sudo apt-get install -y {0}, or conda install -c conda-forge {0}".format

    def tool(name: str, value: str, status: str, fix: str) -> Check:
        return Check(name, "ok" if value else status, value or "missing", "" if value else fix)

    keeper = facts.get("conda") or facts.get("mamba") or facts.get("micromamba") or ""
    return [
        Check("host", "ok", f"{host.name}, {facts.get('system', '?')}"),
        _carrier(host, facts),
        tool("SHA-256", facts.get("hash", "").replace("none", ""), "fail", apt("openssl")),
        tool("python", facts.get("python", ""), "warn", apt("python3")),
        tool("make", facts.get("make", ""), "warn", apt("make")),
        tool("tmux", facts.get("tmux", ""), "skip", ""),
        tool("conda", keeper, "skip", ""),
        *_disk(host, facts),
        tool("writable", facts.get("writable", ""), "fail", "check the folder's owner"),
        _gpu(facts),
        tool("kit", facts.get("kit", ""), "skip", ""),
        *_login(host),
    ]


def _carrier(host: Host, facts: dict[str, str]) -> Check:
    if facts.get("rsync"):
        plain = "" if facts.get("progress") else " (openrsync: no progress bar)"
        return Check("rsync", "ok", facts["rsync"] + plain)
    if host.is_folder:
        return Check("rsync", "skip", "missing: a folder is served by plain copies")
    if facts.get("tar"):
        text = "missing: files go by tar, slower, and an interrupted file starts again"
        return Check("rsync", "warn", text, "sudo apt-get install -y rsync, or conda install rsync")
    return Check("rsync", "fail", "missing, and tar too", "sudo apt-get install -y rsync")


def _disk(host: Host, facts: dict[str, str]) -> list[Check]:
    checks_made = []
    if facts.get("free"):
        free = int(facts["free"]) * 1024
        low = free < 20 << 30
        need = "free space: a base model and its checkpoints need 20 GB or more" if low else ""
        text = f"{console.size(free)} free at {host.place}"
        checks_made.append(Check("disk", "warn" if low else "ok", text, need))
    else:
        checks_made.append(Check("disk", "skip", "df there does not say how much is free"))
    if facts.get("inodes") and int(facts["inodes"]) < 10_000:
        text = f"inodes for {facts['inodes']} more files (df -i)"
        checks_made.append(Check("inodes", "warn", text, "delete many small files there"))
    return checks_made


def _gpu(facts: dict[str, str]) -> Check:
    if facts.get("hanging"):
        text = f"nvidia-smi gives no answer within {GPU_SECONDS} s: the driver hangs"
        return Check("GPU", "warn", text, "restart the host (sudo reboot); look at dmesg first")
    gpus = facts.get("gpu", "").strip("; ")
    fix = "" if gpus else "no nvidia-smi there; rehearse on a CPU with --allow-cpu"
    return Check("GPU", "ok" if gpus else "warn", gpus or "missing", fix)


def _login(host: Host) -> list[Check]:
    """Whether the login prints something, which rsync takes for an answer."""
    if not host.banner:
        return []
    printed = refusals.last_line(host.banner.decode(errors="replace"))[:60]
    text = f"it prints something before every command ({printed}): rsync cannot be used"
    return [Check("login", "warn", text, refusals.START_FILE)]


def main(argv: list[str] | None = None) -> int:
    parser = console.ArgumentParser("Look at what the host has.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--accept-new-host-key", action="store_true")
    args = parser.parse_args(argv)
    with open_host(args.host, args.accept_new_host_key) as host:
        facts = look(host)
        return report(checks(host, facts), args.json, host=host.name, facts=facts)
