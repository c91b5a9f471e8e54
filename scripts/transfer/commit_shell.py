"""The shell that puts staged files in place on a host, under a lock, and keeps what they replace.

Whatever lies at a name when a file takes it goes to $kept; `before` and `after` lines say what it
was. The caller drops what the last sync left there, unedited, and reports the rest.
"""

from __future__ import annotations

import os
from pathlib import Path

from transfer.host import quote

BATCH = 200  # files in one command: most of them cost a shell their number squared
NEW = 1000  # files in one put_new, which does not
LONGEST = 60_000  # characters of such a command
STAGED = "\nend of the staged files\n"
BUSY = 75  # exit code: another sync holds the lock

# Its own lock where the host has flock, a folder elsewhere; that of a process that is gone is
# taken over. The lock ends with this shell.
LOCK = r"""
take_lock() {
  exec 9<.
  if command -v flock >/dev/null 2>&1; then
    code=0; flock -w 60 9 2>/dev/null || code=$?
    case $code in (0) return 0;; (1) exit 75;; esac
  fi
  mkdir -p .incoming; tries=0
  until mkdir .incoming/lock 2>/dev/null; do
    owner=$(cat .incoming/lock/owner 2>/dev/null) || owner=''
    tries=$((tries + 1))
    case $owner in
      ("$(uname -n) "*) kill -0 "${owner#* }" 2>/dev/null || { rm -rf .incoming/lock; continue; };;
      ('') [ $tries -lt 60 ] || { rm -rf .incoming/lock; tries=0; continue; };;
    esac
    [ $tries -lt 60 ] || exit 75
    sleep 1
  done
  echo "$(uname -n) $$" >.incoming/lock/owner
  trap 'rm -rf .incoming/lock' EXIT
}
"""
# away PATH: to $kept, whole. clear_way TO FILE…: a file where the folder TO has to be, or a folder
# where a FILE has to be, goes to $kept first.
# put_new TO FILE…: give each FILE its name in TO; where the name is taken by now, put_over.
# put_over TO FILE…: each FILE swaps places with what lies in TO; on another disk than $kept the
# files wait in TO/.incoming/beside. What a killed commit left there goes to $kept.
PUT = r"""
away() {
  rmdir "$1" 2>/dev/null || { mkdir -p "$kept${1%/*}" && mv "$1" "$kept${1%/*}/"; }
}
clear_way() {
  to=$1; shift
  above=${to%/}
  while [ "$above" != . ] && [ ! -d "$above" ]; do
    if [ -e "$above" ] || [ -L "$above" ]; then away "$above"; fi
    above=${above%/*}
  done
  for file; do
    if [ -d "$to${file##*/}" ]; then away "$to${file##*/}"; fi
  done
  [ -d "$to" ] || mkdir -p "$to"
}
beside=.incoming/beside/ # not .incoming itself: that of the kit's folder holds the staged files
recover() {
  [ -d "$1.incoming" ] || return 0
  case $1 in (./) left=./${beside%/};; (*) left=$1.incoming;; esac
  if [ -d "$left" ]; then away "$left"; fi
}
put_new() {
  clear_way "$@"; to=$1; shift
  recover "$to"
  if ln "$1" "$to" 2>/dev/null; then
    rm -f "$1"; shift
  elif [ ! -e "$to${1##*/}" ]; then
    mkdir -p "$to$beside"
    mv -f "$@" "$to$beside"
    for file; do set -- "$@" "$to$beside${file##*/}"; shift; done
  fi
  [ $# -gt 0 ] || return 0
  mv -n "$@" "$to" || true
  for file; do
    if [ -e "$file" ]; then put_over "$to" "$file"; fi
  done
  if [ -d "$to$beside" ]; then rmdir "$to$beside" "$to.incoming" 2>/dev/null || true; fi
}
put_over() {
  clear_way "$@"; to=$1; shift
  need_python
  from=${1%/*}/
  [ "$from" = "$to$beside" ] || recover "$to"
  for file; do set -- "$@" "$to${file##*/}"; shift; done
  signatures before "$@" # first of all: even a link to a file changes its ctime
  for file; do set -- "$@" "${file##*/}"; shift; done
  [ -d "$kept$to" ] || mkdir -p "$kept$to"
  if [ "$from" != "$to$beside" ] && ln "$to$1" "$kept.probe" 2>/dev/null; then
    rm -f "$kept.probe"; waiting=$kept$to
  else
    waiting=$to$beside
  fi
  if [ "$from" != "$waiting" ]; then
    [ -d "$waiting" ] || mkdir -p "$waiting"
    for name; do set -- "$@" "$from$name"; shift; done
    mv -f "$@" "$waiting"
    for file; do set -- "$@" "${file##*/}"; shift; done
  fi
  if [ -n "$python" ]; then "$python" -I -S -c "$exchange" "$waiting" "$to" "$@"
  else
    for name; do
      if [ -e "$to$name" ] || [ -L "$to$name" ]; then
        mv "$to$name" "$waiting$name.old"; mv "$waiting$name" "$to$name"
        mv "$waiting$name.old" "$waiting$name"
      else mv "$waiting$name" "$to$name"; fi
    done
  fi
  if [ "$waiting" != "$kept$to" ]; then
    for name; do
      if [ -e "$waiting$name" ] || [ -L "$waiting$name" ]; then mv "$waiting$name" "$kept$to"; fi
    done
    rmdir "$waiting" "$to.incoming" 2>/dev/null || true
  fi
  for name; do set -- "$@" "$kept$to$name"; shift; done
  signatures after "$@"
}
"""


# drop_closed <LINES: removes each file whose signature is still its line and that no process has
# open; `held-N path` for the others. open_files.py does it where there is a Python.
DROP = r"""
is_open() {
  if command -v fuser >/dev/null 2>&1; then fuser "$1" >/dev/null 2>&1
  elif command -v lsof >/dev/null 2>&1; then [ -n "$(lsof -t -- "$1" 2>/dev/null)" ]
  else false; fi
}
drop_closed() {
  if [ -n "$python" ] && "$python" -I -S -c "$dropper"; then return 0; fi
  number=0
  while IFS= read -r line; do
    path=${line#* * * * * }
    [ -e "$path" ] || continue
    if [ "$(signatures as "$path")" = "as $line" ] && ! is_open "$path"; then rm -f "$path"
    else number=$((number + 1)); printf 'held-%d %s\n' $number "$path"; fi
  done
}
"""
END = "end of the dropped files"
# need_python: $python is the interpreter itself, and a line of the answer names it. python3 may be
# a shim (pyenv, asdf) that takes ten times as long; on a Mac without tools /usr/bin/python3 asks
# to install them.
PYTHON = r"""
need_python() {
  [ -z "$python_known" ] || return 0
  python_known=yes
  for one in /usr/bin/python3 python3; do
    case $one in (/*) [ -d /proc/self ] || continue;; esac
    python=$("$one" -I -S -c 'import ctypes, sys; print(sys.executable)' 2>/dev/null) && break
  done
  printf 'python %s\n' "$python"
}
"""


def dropping(lines: list[str], python: str) -> list[str]:
    """The commands that drop the files of these signature lines, if nobody writes to them.

    `python`: the interpreter that the commit named.
    """
    source = Path(__file__).with_name("open_files.py").read_text(encoding="utf-8")
    if not lines:
        return []
    return [
        DROP, f"dropper={quote(source)} python={quote(python)}",
        f"drop_closed <<'{END}'", *lines, END,
    ]  # fmt: skip


def prologue(root: str, kept: str, stage: str) -> list[str]:
    """What every commit begins with: functions and the lock.

    It makes the staging folder its own: a commit that goes on there after its connection is lost
    takes nothing of what the next sync stages. It lists what is staged, up to the line STAGED.
    """
    source = Path(__file__).with_name("name_swap.py").read_text(encoding="utf-8")
    return [
        "set -e", f"cd {quote(root)}", f"kept={quote(f'./{kept}')}", LOCK, PUT, PYTHON,
        f"exchange={quote(source)} python='' python_known=''",
        'take_lock', 'mkdir -p "$kept"', f"stage={quote(stage)}", 'rm -rf "$stage".*',
        'if [ -d "$stage" ]; then mv "$stage" "$stage.$$"; stage=$stage.$$',
        'list_staged() { cd "$stage" && list_files . -name .rsync-partial -prune -o; }',
        f'(list_staged && echo "{STAGED}") || true; fi',  # also where nobody listens any more
    ]  # fmt: skip


def placing(names: list[str], over: set[str]) -> list[str]:
    """The commands that put `names` in place; those in `over` replace a file that is known there.

    Few commands for many files: neighbours in one folder share one. Keeps the order.
    """
    return _batches(names, lambda n: "put_over" if n in over else "put_new", '"$stage"/')


def moving_aside(names: list[str]) -> list[str]:
    """The commands that move `names` to $kept."""
    lines = []
    for line in _batches(names, lambda n: "aside", "./"):
        _, where, files = line.split(" ", 2)
        lines.append(f'mkdir -p "$kept"{where}; mv -f {files} "$kept"{where}')
    return lines


def _batches(names: list[str], verb, source: str) -> list[str]:
    lines: list[str] = []
    batch: list[str] = []
    length = 0
    for n, name in enumerate(names):
        folder = os.path.dirname(name)
        batch.append(source + quote(name))
        length += len(batch[-1])
        following = names[n + 1] if n + 1 < len(names) else None
        ends = following is None or os.path.dirname(following) != folder
        full = len(batch) == (NEW if verb(name) == "put_new" else BATCH) or length > LONGEST
        if ends or full or verb(following) != verb(name):
            where = quote(f"./{folder}/" if folder else "./")
            lines.append(f"{verb(name)} {where} {' '.join(batch)}")
            batch, length = [], 0
    return lines
