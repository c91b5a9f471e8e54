#!/usr/bin/env bash
# Make the three locks again from configs/requirements-*.in: exact pins with hashes, one lock each for
# Python 3.10 to 3.13 on Linux x86-64 and macOS arm64 (serve: Linux alone). Pins that fit stay.
#
#   scripts/lock_environments.sh                    after an edit of a .in file
#   scripts/lock_environments.sh --upgrade          every package to the newest that fits
#   scripts/lock_environments.sh --upgrade torch    that package alone
#   scripts/lock_environments.sh --headers          only the comments that the locks begin with
#   scripts/lock_environments.sh --check            change nothing; fail where a lock is not what
#                                                   its .in asks for, or lacks a wheel somewhere
#
# They are replaced together, when all are made. Afterwards: make setup-local setup-remote test.
# Exit codes: 0 good, 1 no solution or a stale lock, 2 called wrongly.
set -euo pipefail

# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/kit/common.sh"
# shellcheck source=scripts/setup/environment.sh
. "$KIT_ROOT/scripts/setup/environment.sh"

MODE=lock UPGRADE=()
while [ $# -gt 0 ]; do
  case $1 in
    --check) MODE=check ;;
    --headers) MODE=headers ;;
    --upgrade) if [ -n "${2:-}" ] && [ "${2#-}" = "$2" ]; then
      UPGRADE+=(--upgrade-package "$2")
      shift
    else
      UPGRADE+=(--upgrade)
    fi ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) usage_error "unknown argument '$1'; see scripts/$PROGRAM --help" ;;
  esac
  shift
done

# systems NAME: what a lock is for, in words.
systems() {
  if [ "$1" = serve ]; then printf 'Linux x86-64'; else printf 'Linux x86-64 and macOS arm64'; fi
}

# header NAME: the comment that a lock begins with: what made it, how it is changed, and each exact
# pin of its .in file with the reason that is written there.
header() {
  cat <<END
# The $1 environment: exact versions with their hashes, one lock for Python 3.10 to 3.13 on
# $(systems "$1"). Made from configs/requirements-$1.in by \`make lock\` (uv $(uv_pin)).
#
# To install it: make setup-$1
# To change it: edit configs/requirements-$1.in, never this file; then make lock, which keeps every
# version that still fits (make lock ARGS="--upgrade [PACKAGE]" takes newer ones).
#
# Exact by intention; all other versions are the newest that fitted when the lock was made:
END
  awk '
    function end() { if (pin != "") printf "#   %-26s %s\n", pin, why; pin = "" }
    /^[A-Za-z0-9]/ { end() }
    /^[A-Za-z0-9][^#]*(==|<|>=)[^#]*#/ {
      pin = $1; why = $0; sub(/^[^#]*# */, "", why); next
    }
    /^[ \t]+#/ && pin != "" { line = $0; sub(/^[ \t]*# */, "", line); why = why "\n#" sprintf("%30s", "") line; next }
    { end() }
    END { end() }' "$KIT_ROOT/configs/requirements-$1.in"
  printf '\n'
}

# with_header NAME FOLDER: put the header before FOLDER/requirements-NAME.txt, in place of an old one.
with_header() {
  local lock
  lock=$2/$(lock_of "$1")
  { header "$1" && awk '/^[^#]/ { on = 1 } on' "$lock"; } >"$lock.part"
  mv -f "$lock.part" "$lock"
}

# compile NAME [OPTION...]: configs/requirements-NAME.in -> its lock in $NEW, which holds the old
# one: uv keeps its pins where they fit.
compile() {
  local name=$1
  shift
  say "configs/requirements-$name.in"
  (cd "$NEW" && "$UV" pip compile --quiet --universal --python "$PYTHON" --python-version 3.10 \
    --generate-hashes --no-header ${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"} \
    ${UPGRADE[@]+"${UPGRADE[@]}"} "$@" \
    --output-file "$(lock_of "$name")" "configs/requirements-$name.in" >/dev/null) ||
    die "configs/requirements-$name.in has no solution, see above"
  with_header "$name" "$NEW"
}

# installs NAME PYTHON PLATFORM: every pin has a wheel there (or is one of the known sdists).
installs() {
  local venv=$NEW/venv
  "$UV" venv --quiet --clear --no-project --python "$PYTHON" "$venv"
  MACOSX_DEPLOYMENT_TARGET=14.0 "$UV" pip sync --quiet --dry-run --python "$venv/bin/python" \
    --python-version "$2" --python-platform "$3" --require-hashes --only-binary :all: \
    --no-binary langdetect --no-binary rouge-score ${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"} \
    "$NEW/$(lock_of "$1")" ||
    die "$(lock_of "$1") does not install on Python $2, $3, see above"
  ok "$(lock_of "$1")  Python $2, $3"
}

LOCKS=(remote local serve)
if [ "$MODE" = headers ]; then
  for name in "${LOCKS[@]}"; do with_header "$name" "$KIT_ROOT"; done
  exit 0
fi
need_home
forget_variables
on_interruption
STEP=locks
find_python
need_uv
uv_settings
mkdir -p "$ENVS"
NEW=$(mktemp -d "$ENVS/.locks.XXXXXX") # beside them: mv is one rename
UNFINISHED=$NEW
mkdir "$NEW/configs"
cp "$KIT_ROOT"/requirements-*.txt "$NEW/"
cp "$KIT_ROOT"/configs/requirements-* "$NEW/configs/"
compile remote
compile local --constraint requirements-remote.txt
compile serve --constraint configs/requirements-remote.in

for name in "${LOCKS[@]}"; do
  lock=$(lock_of "$name")
  if [ "$MODE" = check ] && ! cmp -s "$NEW/$lock" "$KIT_ROOT/$lock"; then
    die "$lock is not what configs/requirements-$name.in asks for; make lock"
  fi
  platforms=(x86_64-manylinux_2_28 macos)
  if [ "$name" = serve ]; then platforms=(x86_64-manylinux_2_31); fi
  for platform in "${platforms[@]}"; do
    installs "$name" 3.10 "$platform"
    installs "$name" 3.13 "$platform"
  done
done
if [ "$MODE" = lock ]; then
  for name in "${LOCKS[@]}"; do mv "$NEW/$(lock_of "$name")" "$KIT_ROOT/$(lock_of "$name")"; done
fi
