#!/usr/bin/env bash
# Measure a set-up against bare uv and against pip, side by side, with a warm package cache.
#
#   tests/bench/environments.sh [--rounds N] [--without-pip] [--smallest]      default: 3 rounds
#
# All install requirements-local.txt with its hashes into an empty folder beside this checkout's
# environments, so that uv may link files (--smallest: six packages of it into TMPDIR, one round).
# Bare uv and pip stop there; the set-up then compares every file with its RECORD and imports every
# package. Medians. The goals: at most 1.5x bare uv with the files compared; with the imports too,
# 1.2x bare uv and then the same imports in one Python; 4x faster than pip; and 0.15x `uv pip sync`
# where there is nothing to do. Exit codes: 0 measured, 1 it could not be measured, 2 called wrongly.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/kit/common.sh"
# shellcheck source=scripts/setup/environment.sh
. "$KIT_ROOT/scripts/setup/environment.sh"

MODE=measure rounds=3 with_pip=yes smallest=${BENCH_SMALLEST:-}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --without-pip) with_pip=no ;;
    --smallest) smallest=1 ;;
    --rounds)
      case ${2-} in '' | *[!0-9]* | 0*) usage_error "--rounds needs a number from 1" ;; esac
      rounds=$2
      shift
      ;;
    *) usage_error "unknown option $1; see --help" ;;
  esac
  shift
done

find_python
need_uv
export UV
lock=$KIT_ROOT/requirements-local.txt
if [ -n "$smallest" ]; then
  rounds=1 with_pip=no
  place=$(mktemp -d "${TMPDIR:-/tmp}/tandem-bench.XXXXXX")
  names=' attrs packaging tqdm idna pyyaml certifi '
  awk -v names="$names" \
    '/^[^ #]/ { split($0, a, "[= ]"); on = index(names, " " a[1] " ") } on' "$lock" >"$place/lock.txt"
  lock=$place/lock.txt
  export TANDEM_LOCK=$lock
else
  mkdir -p "$ENVS"
  place=$(mktemp -d "$ENVS/.bench.XXXXXX")
fi
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# seconds COMMAND...: its wall time; its output goes to the log.
seconds() {
  local TIMEFORMAT=%R
  { time "$@" >>"$place/log" 2>&1; } 2>&1 || {
    tail -n 5 "$place/log" >&2
    die "failed: $*"
  }
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

bare_uv() {
  "$UV" venv --quiet --no-project --python "$PYTHON" "$place/bare"
  "$UV" pip sync --quiet --python "$place/bare/bin/python" --require-hashes \
    ${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"} "$lock"
}
bare_imports() { # the same modules as the set-up, all in one Python
  "$place/bare/bin/python" - "$KIT_ROOT/scripts" <<'END'
import contextlib, importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
from setup import installed_packages as installed
site = installed.need_site_packages(pathlib.Path(sys.prefix))
for folder in installed.with_records(site):
    for module in installed.modules(installed.read_record(folder)):
        with contextlib.suppress(Exception):
            importlib.import_module(module)
END
}
bare_pip() {
  "$PYTHON" -m venv "$place/pip"
  "$place/pip/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --requirement "$lock"
}
copy_kit() { # NAME: a checkout without environments, in $place/NAME
  mkdir "$place/$1"
  cp -R "$KIT_ROOT"/setup_*.sh "$KIT_ROOT"/requirements-*.txt "$KIT_ROOT/configs" \
    "$KIT_ROOT/scripts" "$place/$1/"
}

uv_settings
copy_kit files
copy_kit all
sed 's/--seal /--seal --no-imports /' "$KIT_ROOT/scripts/setup/environment.sh" \
  >"$place/files/scripts/setup/environment.sh"
remote=no # measured where it stands, never built for this
ENV_NAME=remote LINK=$KIT_ROOT/.venv-remote LOCK=$KIT_ROOT/requirements-remote.txt BACKEND=auto
env_state
if [ "$STATE" = ready ] && [ -z "$smallest" ]; then remote=yes; fi
say "Warming the package cache"
seconds bare_uv >/dev/null
for ((round = 1; round <= rounds; round++)); do
  say "Round $round of $rounds"
  rm -rf "$place/bare" "$place"/{files,all}/.envs "$place"/{files,all}/.venv-local
  seconds bare_uv >>"$place/uv.times"
  seconds bare_imports >>"$place/imports.times"
  seconds "$place/files/setup_local.sh" >>"$place/files.times"
  seconds "$place/all/setup_local.sh" >>"$place/all.times"
  seconds "$UV" pip sync --quiet --python "$place/bare/bin/python" "$lock" >>"$place/noop-uv.times"
  for _ in 1 2 3; do seconds "$place/all/setup_local.sh" >>"$place/noop.times"; done
  if [ "$remote" = yes ]; then
    for _ in 1 2 3; do
      seconds "$KIT_ROOT/setup_remote.sh" --here --allow-cpu >>"$place/noop-remote.times"
    done
  fi
done
if [ "$with_pip" = yes ]; then
  say "pip, one run with what is in its cache and one that is counted"
  seconds bare_pip >/dev/null
  rm -rf "$place/pip"
  seconds bare_pip >"$place/pip.times"
fi

# row NAME A B: the median of A, and how often B's fits into it.
row() {
  local a b
  [ -f "$place/$2.times" ] || return 0
  a=$(median <"$place/$2.times")
  b=$(median <"$place/$3.times")
  printf '%-52s %7.2f s  %5.2fx\n' "$1" "$a" "$(awk "BEGIN { print $a / $b }")"
}
# Bare uv and the imports, round by round: what a set-up with imports is held against.
paste "$place/uv.times" "$place/imports.times" | awk '{ print $1 + $2 }' >"$place/uv-imports.times"
printf 'environments: %s, Python %s, uv %s, medians of %s\n' "${lock##*/}" "$PYTHON_VERSION" \
  "$("$UV" --version | cut -d ' ' -f 2)" "$rounds"
row "first set-up: bare uv pip sync, checks nothing" uv uv
row "first set-up: setup_local.sh, every file compared" files uv
row "first set-up: bare uv, then the imports in one Python" uv-imports uv
row "first set-up: setup_local.sh, and every import" all uv-imports
row "first set-up: pip" pip uv
row "first set-up: pip, against setup_local.sh" pip all
row "nothing to do: uv pip sync" noop-uv noop-uv
row "nothing to do: setup_local.sh" noop noop-uv
row "nothing to do: setup_remote.sh" noop-remote noop-uv
