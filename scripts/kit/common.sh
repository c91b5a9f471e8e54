# Sourced by every shell command: messages, usage, small helpers. bash 3.2 and BSD tools.
# Exit codes: 0 good, 1 the work failed, 2 called or configured wrongly, 130/143 interrupted.
# shellcheck shell=bash

set +o posix # POSIXLY_CORRECT switches it on
# what the next line takes away, for make validate to say
export TANDEM_FORGOTTEN=${PYTHONPATH:+PYTHONPATH}\ ${PYTHONHOME:+PYTHONHOME}
# they change what commands do or print, or which modules a Python finds
unset CDPATH POSIXLY_CORRECT GREP_OPTIONS PYTHONSAFEPATH PYTHONINSPECT PYTHONPATH PYTHONHOME
PROGRAM=${0##*/}
KIT_ROOT=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd -P)

if [ -t 2 ] && [ -z "${NO_COLOR+set}" ]; then
  BOLD=$'\033[1m' YELLOW=$'\033[33m' PLAIN=$'\033[0m'
else
  BOLD='' YELLOW='' PLAIN=''
fi

say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
note() { printf '%s\n' "$*" >&2; }
ok() { printf 'ok    %s\n' "$*" >&2; }
warn() { printf '%swarn%s  %s\n' "$YELLOW" "$PLAIN" "$*" >&2; }
# printable TEXT: one line without what a terminal takes for a command; such bytes become question
# marks.
printable() (
  LC_ALL=C # for this subshell: bytes
  printf '%s' "${*//[$'\001'-$'\010'$'\012'-$'\037'$'\177']/?}"
)
# die "problem; remedy": the work failed.
die() {
  printf '%s: %s\n' "$PROGRAM" "$(printable "$*")" >&2
  exit 1
}
# usage_error "problem; remedy": called or configured wrongly.
usage_error() {
  printf '%s: %s\n' "$PROGRAM" "$(printable "$*")" >&2
  exit 2
}
# usage: the header comment of the running script is its help.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }
# need TOOL "remedy": end with one line if TOOL is not on PATH.
need() {
  command -v "$1" >/dev/null 2>&1 || die "$1 is not installed; $2"
}
# sha256_of FILE...: "<hex>  <name>" lines, with whichever tool the system has.
sha256_of() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}
# any_python: a Python 3.10+ that can run the standard-library commands.
any_python() {
  local candidate
  for candidate in "$KIT_ROOT/.venv-local/bin/python" "$KIT_ROOT/.venv-remote/bin/python" \
    python3.10 python3 python3.13 python3.12 python3.11; do
    if "$candidate" -E -S -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer found; install one (https://www.python.org) or put it on PATH"
}
