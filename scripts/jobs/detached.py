"""Commands on the host: in the foreground with their output here, or detached from us."""

from __future__ import annotations

import re
import sys

from kit import console
from transfer.frame import AnswerLimits
from transfer.host import Host, ScriptFailed, open_host, quote
from transfer.listing import read_facts

JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NO_KIT = 97  # exit codes of the scripts below
IS_RUNNING = 98
NOT_STARTED = 99

# The command ends when our end of the connection goes away, however it goes.
FOREGROUND = """
CDPATH= cd {root} 2>/dev/null || exit 97
exec 3<&0
{command} </dev/null 3<&- & pid=$!
{{ cat <&3; kill -TERM "$pid"; }} >/dev/null 2>&1 & guard=$!
exec 3<&-
wait "$pid"; code=$?
kill "$guard" 2>/dev/null
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
CDPATH= cd {root} 2>/dev/null || exit 97
job=.jobs/{name}
if [ ! -f "$job/exit" ] && alive "$job"; then exit 98; fi
mkdir -p "$job" && rm -f "$job/exit" "$job/pid" && : {redirect}"$job/log.txt" || exit 1
cat >"$job/run.sh" && [ $(($(wc -c <"$job/run.sh"))) -eq {size} ] || exit 1
# A tmux server that runs already has its own old variables: the job takes those of this session.
(umask 077; export -p >"$job/environment") || exit 1
if command -v tmux >/dev/null 2>&1 && tmux new-session -d -s {session} "env -i sh $job/run.sh" \
  2>/dev/null
then how=tmux
else env -i sh "$job/run.sh" </dev/null >/dev/null 2>&1 & how=nohup; fi
started "$job" || exit 99
echo "how $how"
echo "pid $(cat "$job/pid")"
"""
# The variables lie in a file that only the user can read, and only until the job has them.
JOB_SCRIPT = """trap '' HUP
. ./.jobs/{name}/environment; rm -f .jobs/{name}/environment
echo $$ >.jobs/{name}/pid
{{ {command}; echo $? >.jobs/{name}/exit.part; }} </dev/null 2>&1 | tee -a .jobs/{name}/log.txt
mv .jobs/{name}/exit.part .jobs/{name}/exit
"""


def foreground(host: Host, command: list[str]) -> int:
    """Run `command` in the kit's folder there; its output is ours. Returns its exit code."""
    host.run(":")  # a login that is refused is said in one line, or offered
    words = " ".join(map(quote, command))
    script = FOREGROUND.format(root=quote(host.root), command=words)
    remote = host.start(script, keep_input=True, stderr=None)
    out = sys.stdout.buffer

    def pass_on(piece: bytes) -> None:
        out.write(piece)
        out.flush()

    try:
        framed = remote.answer(AnswerLimits(silence=float("inf")), pass_on)
    finally:
        remote.process.stdin.close()  # ends the command there if it still runs
    if not framed.begun:
        host.check_begun(framed, remote)
    if framed.code is None:
        raise console.Problem(
            f"{host.name}: the connection failed or was lost", f"try: ssh {host.name} true"
        )
    if framed.code == NO_KIT and not _has_kit(host):
        raise no_kit(host)
    return framed.code


def _has_kit(host: Host) -> bool:
    """Whether the kit's folder is there: then 97 was the command's own exit code."""
    script = f"if [ -d {quote(host.root)} ]; then echo yes; fi"
    return host.run(script, repeatable=True).strip() == b"yes"


def detached(host: Host, name: str, command: list[str]) -> int:
    """Start `command` and say where it runs and how to follow it."""
    how = start(host, name, command)
    console.result(f"{name} runs on {host.name} ({how})")
    console.note(f"follow it: scripts/host_watch.sh {host.name} {name}")
    return console.GOOD


def start(host: Host, name: str, command: list[str], keep_log: bool = False) -> str:
    """Start `command` so that it outlives the connection; returns how: tmux, else nohup.

    keep_log: go on with the log of an earlier job of that name.
    """
    words = " ".join(map(quote, command))
    job = JOB_SCRIPT.format(name=name, command=words).encode("utf-8", "surrogateescape")
    place = {"root": quote(host.root), "session": f"tandem-{name}", "size": len(job)}
    place["redirect"] = ">>" if keep_log else ">"
    try:
        output = host.run(ALIVE + DETACHED.format(name=name, **place), job)
    except ScriptFailed as failed:
        raise _not_started(host, name, failed) from None
    facts = read_facts(host, output.rstrip(b"\n"))
    if facts.get("how") not in ("tmux", "nohup") or not facts.get("pid", "").isdigit():
        raise console.Problem(
            f"{host.name}: it does not say that {name} started",
            f"look: scripts/host_watch.sh {host.name} {name} --once",
        )
    return facts["how"]


def _not_started(host: Host, name: str, failed: ScriptFailed) -> console.Problem:
    if failed.exit_code == NO_KIT:
        return no_kit(host)
    if failed.exit_code == IS_RUNNING:
        return console.Problem(
            f"{name} is running already on {host.name}",
            f"scripts/host_watch.sh {host.name} {name}, or choose another name",
        )
    if failed.exit_code == NOT_STARTED:
        return console.Problem(
            f"{host.name}: {name} did not start within 5 s",
            f"look at {host.place}/.jobs/{name}/ there: its log, the disk, the memory",
        )
    return failed


def no_kit(host: Host) -> console.Problem:
    """There is no kit on the host."""
    fix = f"make sync-up HOST={host.name} sends the kit"
    return console.Problem(f"{host.place} does not exist", fix)


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
