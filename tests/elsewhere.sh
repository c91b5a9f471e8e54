#!/usr/bin/env bash
# Run the fast tests where a stranger runs them: in a fresh clone, without this shell's variables.
#
# Usage: tests/elsewhere.sh [bare|python] ...      default: both
#
#   bare     an ordinary user with HOME and PATH alone (as root: a user that is made for it)
#   python   Python 3.13 instead of 3.10 (TANDEM_PYTHON)
#
# Exit codes: 0 everything passed, 1 something failed, 2 called wrongly.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/kit/common.sh
. scripts/kit/common.sh

case ${1-} in -h | --help)
  usage
  exit 0
  ;;
esac
[ $# != 0 ] || set -- bare python
place=$(mktemp -d /tmp/tandem-elsewhere.XXXXXX)
visitor='' failed=''

leave() {
  if [ -n "$visitor" ]; then
    pkill -KILL -u "$visitor" 2>/dev/null || true
    userdel "$visitor" 2>/dev/null || true
  fi
  rm -rf "$place"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# clone FOLDER: what git has of this checkout, committed or not, as a checkout of its own.
clone() {
  mkdir -p "$1/tandem"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then printf '%s\0' "$file"; fi
  done | xargs -0 tar cf - | tar xf - -C "$1/tandem"
  (cd "$1/tandem" && git init -q && git add -A &&
    git -c user.name=tandem -c user.email=tandem@localhost commit -qm "A clone for tests")
  if [ -d ../shared/samples ]; then ln -s "$(cd ../shared && pwd -P)" "$1/shared"; fi
}

# as_visitor COMMAND...: as an ordinary user, with HOME and PATH and nothing more.
as_visitor() {
  local search=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin node
  node=$(command -v node || true)
  [ -z "$node" ] || search=$search:${node%/*}
  if [ -n "$visitor" ]; then
    set -- su "$visitor" -s /bin/bash -c "cd '$place/bare/tandem' && exec env -i HOME='$place/bare' PATH='$search' $*"
  else
    set -- env -i HOME="$place/bare" PATH="$search" bash -c "cd '$place/bare/tandem' && $*"
  fi
  "$@"
}

bare() {
  chmod 755 "$place"
  clone "$place/bare"
  if [ "$(id -u)" = 0 ]; then
    command -v useradd >/dev/null 2>&1 || { warn "skipped: bare: no useradd here to make an ordinary user" && return; }
    visitor=tandem$$
    useradd -M -d "$place/bare" -s /bin/bash "$visitor"
    # a locked password would refuse keys too where sshd runs without PAM
    usermod -p '*' "$visitor"
    chown -R "$visitor" "$place/bare"
  fi
  as_visitor make test-fast
}

python() {
  local interpreter
  interpreter=$(TANDEM_PYTHON=3.13 bash -c '. scripts/kit/common.sh; . scripts/setup/find_python.sh
    find_python >/dev/null 2>&1 && printf "%s\n" "$PYTHON"') ||
    { warn "skipped: python: no Python 3.13 here; install one" && return; }
  clone "$place/python"
  (cd "$place/python/tandem" && TANDEM_PYTHON=$interpreter make test-fast)
}

for name in "$@"; do
  case $name in bare | python) ;; *) usage_error "nothing is named $name; bare or python" ;; esac
  say "The fast tests elsewhere: $name"
  if "$name"; then ok "$name"; else failed="$failed $name"; fi
done
[ -z "$failed" ] || die "failed:$failed; the lines above say why"
