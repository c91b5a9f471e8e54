# For the set-up tests: a copy of the kit with a lock of six small packages, and its own uv cache,
# so that nothing a test damages is shared with anybody. Packages come from the network.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
load "$ROOT/tests/node_modules/bats-support/load"
load "$ROOT/tests/node_modules/bats-assert/load"

SMALL='attrs packaging tqdm idna pyyaml certifi'

# small_lock NAME...: those packages of requirements-local.txt, hashes and all.
small_lock() {
  awk -v names=" $* " '/^[^ #]/ { split($0, a, "[= ]"); on = index(names, " " a[1] " ") } on' \
    "$ROOT/requirements-local.txt"
}

# checkout: a copy of the kit in $COPY; the current folder is there.
checkout() {
  local name
  COPY=$BATS_TEST_TMPDIR/tandem
  mkdir -p "$COPY/scripts"
  for name in setup_local.sh setup_remote.sh environment-remote.yml configs \
    requirements-local.txt requirements-remote.txt; do
    cp -R "$ROOT/$name" "$COPY/"
  done
  cp "$ROOT"/scripts/*.py "$ROOT"/scripts/*.sh "$COPY/scripts/"
  for name in kit setup checks transfer jobs; do cp -R "$ROOT/scripts/$name" "$COPY/scripts/"; done
  # room on the disk is another test's matter, and a full one must not fail all of these
  printf 'print("ok    disk  (stand-in)")\n' >"$COPY/scripts/check_storage.py"
  # shellcheck disable=SC2086
  small_lock $SMALL >"$COPY/small.txt"
  export TANDEM_LOCK=$COPY/small.txt UV_CACHE_DIR=$BATS_FILE_TMPDIR/uv-cache
  export UV=$ROOT/.venv-local/bin/uv
  [ -x "$UV" ] || unset UV
  unset HOST REMOTE_DIR TANDEM_PYTHON TANDEM_HOST TANDEM_REMOTE_DIR TANDEM_WORKDIR CONDA_EXE
  cd "$COPY" || return 1
}

# folders NAME: the environment's folders in .envs, finished or not.
folders() { find .envs -maxdepth 1 -name "$1-*" 2>/dev/null | grep -v '/uv-' | sort; }

# works NAME: the environment under the link can do its work.
works() {
  ".venv-$1/bin/python" -c 'import attrs, packaging.version, tqdm, idna, yaml, certifi'
}

# start LOG COMMAND...: in the background, in a process group of its own; its leader is $PID.
start() {
  local log=$1
  shift
  set -m
  "$@" >"$log" 2>&1 3>&- &
  PID=$!
  set +m
}

# within SECONDS COMMAND...: until the command succeeds, or fail.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do [ "$SECONDS" -lt "$deadline" ] || return 1; done
}
