"""Commands on the host: in the foreground with their output here, or detached from us."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from kit import console
from transfer.host import Host, open_host, quote

JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

# The command ends when our end of the connection goes away, however it goes.
FOREGROUND = """
cd {root} 2>/dev/null || exit 97
exec 3<&0
{command} </dev/null 3<&- & pid=$!
{{ cat <&3; kill -TERM "$pid"; }} >/dev/null 2>&1 & guard=$!
exec 3<&-
wait "$pid"; code=$?
kill "$guard" 2>/dev/null
case $code in (97 | 255) {{ mkdir -p .jobs && echo "$code" >{note}; }} 2>/dev/null;; esac
exit "$code"
"""
# alive JOB-FOLDER: whether its run.sh still runs. Its pid alone says little: after a restart of the
# host it is another's, and a killed process that nobody waits for keeps it.
ALIVE = """
alive() {
  pid=$(cat "$1/pid" 2>/dev/null); [ -n "$pid" ] || return 1
  if [ -r /proc/self/cmdline ]; then words=$(tr '\\0' ' ' <"/proc/$pid/cmdline")
  elif command -v ps >/dev/null; then words=$(ps -ww -o args= -p "$pid")
  else kill -0 "$pid"; return; fi 2>/dev/null
  case $words in (*"$1/run.sh"*) return 0;; esac
  return 1
}
# The job writes its pid at once, but not before it is started.
started() {
  tries=0
  while [ ! -s "$1/pid" ] && [ $tries -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
  [ -s "$1/pid" ]
}
"""
DETACHED = """
cd {root} 2>/dev/null || exit 97
job=.jobs/{name}
if [ ! -f "$job/exit" ] && alive "$job"; then
  echo "{name} is running already" >&2; exit 98
fi
mkdir -p "$job" && rm -f "$job/exit" "$job/pid" && : >"$job/log.txt" || exit 1
cat >"$job/run.sh"
if command -v tmux >/dev/null 2>&1 && tmux new-session -d -s {session} "sh $job/run.sh" 2>/dev/null
then echo tmux
else nohup sh "$job/run.sh" </dev/null >/dev/null 2>&1 & echo nohup; fi
started "$job"
"""
JOB_SCRIPT = """trap '' HUP
echo $$ >.jobs/{name}/pid
{{ {command}; echo $? >.jobs/{name}/exit.part; }} </dev/null 2>&1 | tee -a .jobs/{name}/log.txt
mv .jobs/{name}/exit.part .jobs/{name}/exit
"""


def foreground(host: Host, command: list[str]) -> int:
    """Run `command` in the kit's folder there; its output is ours. Returns its exit code."""
    words, note = " ".join(map(quote, command)), f".jobs/.ended-{os.urandom(6).hex()}"
    script = FOREGROUND.format(root=quote(host.root), command=words, note=note)
    running = host.start(script, stdout=None, stderr=None)
    try:
        code = running.process.wait()
    finally:
        running.process.stdin.close()  # ends the command there if it still runs
    if code not in (97, 255) or _noted(host, note):
        return code
    if code == 97:
        raise no_kit(host)
    raise console.Problem(
        f"{host.name}: the connection failed or was lost", f"try: ssh {host.name} true"
    )


def _noted(host: Host, note: str) -> bool:
    """Whether the command there ended by itself with a code that ssh or our script have too."""
    if not host.connected:
        return False
    with contextlib.suppress(console.Problem):
        where = f"{quote(host.root)}/{note}"
        return bool(host.run(f"[ ! -f {where} ] || {{ cat {where}; rm -f {where}; }}"))
    return False


def detached(host: Host, name: str, command: list[str]) -> int:
    """Start `command` so that it outlives the connection: in tmux where there is one."""
    words = " ".join(map(quote, command))
    place = {"root": quote(host.root), "session": f"tandem-{name}"}
    running = host.start(ALIVE + DETACHED.format(name=name, **place))
    try:
        how = host.finish(running, JOB_SCRIPT.format(name=name, command=words).encode())
    except console.Problem:
        if running.process.returncode == 97:
            raise no_kit(host) from None
        if running.process.returncode == 98:
            raise console.Problem(
                f"{name} is running already on {host.name}",
                f"scripts/host_watch.sh {host.name} {name}, or choose another name",
            ) from None
        raise
    print(f"{name} runs on {host.name} ({how.decode().strip()})")
    console.note(f"follow it: scripts/host_watch.sh {host.name} {name}")
    return console.GOOD


def no_kit(host: Host) -> console.Problem:
    """There is no kit on the host."""
    return console.Problem(f"{host.place} does not exist", "make sync-up HOST=… sends the kit")


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--" not in argv:
        raise console.Misuse("no command given", "host_run.sh [HOST] [--detach NAME] -- COMMAND …")
    cut = argv.index("--")
    parser = console.ArgumentParser("Run a command of the kit on the host.")
    parser.add_argument("host", nargs="?")
    parser.add_argument("--detach", metavar="NAME")
    parser.add_argument("--accept-new-host-key", action="store_true")
    args, command = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if not command:
        raise console.Misuse("no command after --", "host_run.sh gpu1 -- make validate")
    if args.detach and not JOB.fullmatch(args.detach):
        raise console.Misuse(f"--detach {args.detach!r}", "use letters, digits, _ and -")
    with open_host(args.host, args.accept_new_host_key) as host:
        return detached(host, args.detach, command) if args.detach else foreground(host, command)
