#!/usr/bin/env bats
# What surrounds a set-up: homes that cannot be written, other programs' settings, no network, a
# Python that was chosen once, a byte that was flipped, Ctrl-C.

load ../support/checkout

setup() { checkout; }

PYTHON_310=$("$ROOT/.venv-local/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')

# other_python: sets OTHER to a Python of another version than 3.10, with the modules it needs.
other_python() {
  local version
  for version in 3.11 3.12 3.13; do
    for OTHER in /usr/bin/python3 "/usr/bin/python$version" "$HOME/.pyenv/versions/$version".*/bin/python; do
      if "$OTHER" -c "import sys, ssl, sqlite3, lzma; sys.exit('$version' not in sys.version)" 2>/dev/null; then
        return 0
      fi
    done
  done
  skip "no Python newer than 3.10 here"
}

last_line() { printf '%s\n' "${lines[${#lines[@]} - 1]}"; }

# bats test_tags=slow
@test "the Python that was chosen once stays the choice, and another one can be named" {
  other_python
  TANDEM_PYTHON=$OTHER ./setup_local.sh
  first=$(readlink .venv-local)
  run ./setup_local.sh
  assert_output --partial 'nothing to do'
  small_lock xxhash >>small.txt
  run ./setup_local.sh # a new lock does not bring 3.10 back
  assert_success
  [ "$(readlink .venv-local)" != "$first" ]
  run .venv-local/bin/python --version
  refute_output --partial 'Python 3.10'
  TANDEM_PYTHON=3.10 run ./setup_local.sh
  assert_success
  case $output in *'no Python 3.10 found'*) skip "no Python 3.10 here" ;; esac
  run .venv-local/bin/python --version
  assert_output --partial 'Python 3.10'
}

# bats test_tags=slow
@test "a comment in the lock is no reason to build anew" {
  ./setup_local.sh
  printf '# another header\n\n%s\n' "$(cat small.txt)" >changed && mv changed small.txt
  run ./setup_local.sh
  assert_output --partial 'nothing to do'
}

# bats test_tags=slow
@test "a flipped byte is noticed by a plain run, with the same size and the same time" {
  ./setup_local.sh
  file=$(printf '%s' .venv-local/lib/python3*/site-packages/tqdm/std.py)
  touch -r "$file" "$BATS_TEST_TMPDIR/time"
  printf '#' | dd of="$file" bs=1 seek=3 conv=notrunc 2>/dev/null
  touch -r "$BATS_TEST_TMPDIR/time" "$file"
  run ./setup_local.sh
  assert_success
  assert_output --partial 'tqdm/std.py: damaged'
  run ./setup_local.sh --check
  assert_success
}

# bats test_tags=slow
@test "Ctrl-C at any moment says where it stopped, and ends with 130" {
  small_lock xxhash regex numpy >>small.txt
  for moment in .envs bin/python lib/python3.10/site-packages/idna .tandem/mark; do
    rm -rf .envs .venv-local
    start "$BATS_TEST_TMPDIR/log" env TANDEM_PYTHON="$PYTHON_310" ./setup_local.sh
    within 60 reached "$moment"
    kill -INT -- "-$PID" 2>/dev/null || continue
    code=0 && wait "$PID" || code=$?
    [ "$code" = 130 ]
    run cat "$BATS_TEST_TMPDIR/log"
    assert_regex "$(last_line)" '^setup_local.sh: interrupted \(INT\) at: [A-Z].*; run it again'
    [ -z "$(folders local)" ]
  done
}

reached() {
  ! kill -0 "$PID" 2>/dev/null || [ -e "$1" ] || [ -e "$(folders local | head -n 1)/$1" ]
}

# bats test_tags=slow
@test "a home that cannot be written, or none: caches go beside the checkout" {
  [ "$(id -u)" = 0 ] || skip "needs root, to become a user without a home"
  command -v setpriv >/dev/null || skip "needs setpriv"
  chmod -R a+rX "$BATS_TEST_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"
  mkdir -p "$BATS_TEST_TMPDIR/home" && chmod 555 "$BATS_TEST_TMPDIR/home"
  cp -L "$UV" "$BATS_TEST_TMPDIR/uv" && chmod 755 "$BATS_TEST_TMPDIR/uv"
  command -v python3 && su nobody -s /bin/sh -c 'python3 -c "import ssl"' || skip "no Python for all"
  chown -R 4321:4321 .
  for home in "HOME=$BATS_TEST_TMPDIR/home" HOME=; do
    rm -rf .envs .venv-local .cache
    run env -i PATH=/usr/bin:/bin UV="$BATS_TEST_TMPDIR/uv" TANDEM_LOCK="$TANDEM_LOCK" "$home" \
      ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} \
      TANDEM_PYTHON=/usr/bin/python3 setpriv --reuid 4321 --regid 4321 --clear-groups ./setup_local.sh
    case $output in *'is not a Python 3.10'*) skip "the system's Python is another one" ;; esac
    assert_success
    [ -d .cache/uv ]
    assert_output --partial "UV_CACHE_DIR=$PWD/.cache/uv"
  done
}

# bats test_tags=slow
@test "variables of other programs change nothing" {
  UV_TARGET=/nowhere UV_PYTHON=3.8 UV_EXCLUDE_NEWER=2001-01-01 UV_NO_BINARY=1 UV_SYSTEM_PYTHON=1 \
    UV_TORCH_BACKEND=cu118 UV_CONSTRAINT=/nowhere PYTHONSAFEPATH=1 PYTHONOPTIMIZE=2 \
    PYTHONWARNINGS=error CDPATH=.:/tmp POSIXLY_CORRECT=1 PIP_NO_BINARY=:all: \
    run ./setup_local.sh
  assert_success
  works local
}

# bats test_tags=slow
@test "uv.toml: the index holds, what would spoil the lock does not" {
  mkdir -p config/uv
  cat >config/uv/uv.toml <<'TOML'
required-version = ">=99"
exclude-newer = "2001-01-01"
index-url = "http://127.0.0.1:9/from-uv-toml"
[pip]
target = "/nowhere"
no-binary = [
  ":all:",
]
TOML
  XDG_CONFIG_HOME=$PWD/config UV_CACHE_DIR=$PWD/empty UV_HTTP_RETRIES=0 run ./setup_local.sh
  assert_failure 1
  assert_output --partial '127.0.0.1:9/from-uv-toml'
  assert_regex "$(last_line)" '^setup_local.sh: uv: .*; check the network'
  sed '/index-url/d' config/uv/uv.toml >t && mv t config/uv/uv.toml
  XDG_CONFIG_HOME=$PWD/config run ./setup_local.sh
  assert_success
  works local
}

# bats test_tags=slow
@test "without uv and without a network it takes the pinned one from uv's cache, or another checkout" {
  pin=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements-local.txt)
  small_lock uv >>small.txt
  TANDEM_PYTHON=$PYTHON_310 ./setup_local.sh # fills the cache
  [ -x .venv-local/bin/uv ] || skip "no uv in the small lock"
  offline=(env -u UV PATH="${PYTHON_310%/*}:/usr/bin:/bin" UV_OFFLINE=1)
  rm -rf .envs .venv-local
  run "${offline[@]}" ./setup_local.sh
  assert_success
  assert_output --partial "uv $pin was here already, and has the pinned hash"
  works local
  # a neighbour with the same cache for packages, and no entry for uv in it
  find "$UV_CACHE_DIR"/wheels-v* -type d -name uv -prune -exec rm -rf {} +
  cp -R "$COPY" "$BATS_TEST_TMPDIR/neighbour" && cd "$BATS_TEST_TMPDIR/neighbour"
  rm -rf .envs .venv-local
  sed '/^uv==/,$d' small.txt >t && mv t small.txt
  TANDEM_LOCK=$PWD/small.txt run "${offline[@]}" ./setup_local.sh
  assert_success
  assert_output --partial "uv $pin was here already"
  # a program that is not the one of the RECORD is not taken
  rm -rf .envs .venv-local
  printf '#!/bin/sh\n' >"$COPY/.venv-local/bin/uv"
  TANDEM_LOCK=$PWD/small.txt run "${offline[@]}" ./setup_local.sh
  assert_output --partial 'fetching uv'
}

# bats test_tags=slow
@test "a Python without pip and venv gets uv by pip's own source, at the pinned commit alone" {
  "$PYTHON_310" -m pip --version >/dev/null || skip "no pip here to take for its source"
  bare=$BATS_TEST_TMPDIR/bare source=$BATS_TEST_TMPDIR/pip home=${PYTHON_310%/bin/*}
  mkdir -p "$bare/bin" "$bare/lib"
  cp "$PYTHON_310" "$bare/bin/python3.10"
  ln -s python3.10 "$bare/bin/python3" && ln -s python3.10 "$bare/bin/python"
  cp -R "$home/lib/python3.10" "$bare/lib/"
  rm -rf "$bare/lib/python3.10/"{site-packages/*,ensurepip,venv}
  "$bare/bin/python3.10" -c "import sys; sys.exit(sys.prefix != '$bare')" || skip "this Python cannot be copied"
  mkdir -p "$source/src"
  cp -R "$("$PYTHON_310" -c 'import os, pip; print(os.path.dirname(pip.__file__))')" "$source/src/pip"
  git -C "$source" init -q && git -C "$source" add -A
  git -C "$source" -c user.name=a -c user.email=a@b commit -qm pip
  git -C "$source" tag "$(sed -n 's/^PIP_TAG=\([^ ]*\).*/\1/p' scripts/setup/find_uv.sh)"
  printf '[url "file://%s"]\n  insteadOf = https://github.com/pypa/pip\n' "$source" >gitconfig
  alone=(env -u UV PATH="$bare/bin:$PATH" TANDEM_PYTHON="$bare/bin/python3.10" GIT_CONFIG_GLOBAL="$PWD/gitconfig"
    UV_CACHE_DIR="$BATS_TEST_TMPDIR/empty")
  run "${alone[@]}" ./setup_local.sh
  assert_failure
  assert_output --partial 'is another commit there than'
  assert_output --partial 'apt install python3-pip python3-venv'
  refute_output --partial 'fetching uv'
  commit=$(git -C "$source" rev-parse HEAD)
  sed "s/PIP_COMMIT=.*/PIP_COMMIT=$commit/" scripts/setup/find_uv.sh >t && mv t scripts/setup/find_uv.sh
  run "${alone[@]}" ./setup_local.sh
  assert_success
  works local
  [ ! -e .envs/.pip ]
}

@test "a Python that was built without a module is named, and so is the module" {
  printf '#!/bin/sh\necho "$0|3.10.4|%s|sqlite3 lzma"\n' "$(uname -m)" >python3.10
  chmod +x python3.10
  TANDEM_PYTHON=$PWD/python3.10 run ./setup_local.sh
  assert_failure 1
  assert_equal "${#lines[@]}" 2
  assert_regex "$(last_line)" "python3.10 was built without sqlite3, lzma.*TANDEM_PYTHON"
}

@test "a disk that runs no programs is named before anything is installed" {
  [ "$(uname -s)" = Linux ] && mkdir .envs && mount -t tmpfs -o noexec,size=64m none .envs ||
    skip "needs root on Linux to mount a file system"
  run ./setup_local.sh
  umount .envs
  assert_failure 1
  assert_regex "$(last_line)" '^setup_local.sh: programs: no program may run below .*noexec'
}
