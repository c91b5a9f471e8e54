#!/usr/bin/env bats
# setup_local.sh with a lock of six packages: real uv, real kills, real damage.

load ../support/checkout

setup() { checkout; }

@test "help and bad arguments need no Python and no uv" {
  run env PATH=/usr/bin:/bin ./setup_local.sh --help
  assert_success
  assert_output --partial 'TANDEM_PYTHON=3.12 ./setup_local.sh'
  run ./setup_local.sh --chekc
  assert_failure 2
  assert_output "setup_local.sh: unknown argument '--chekc'; see ./setup_local.sh --help"
}

# bats test_tags=slow
@test "a first run makes folders and environment, a second one touches nothing" {
  run ./setup_local.sh
  assert_success
  assert_output --partial 'modules import'
  works local
  [ -f data/raw/.gitkeep ] && [ -f adapters/.gitkeep ]
  touch "$BATS_TEST_TMPDIR/before"
  run ./setup_local.sh
  assert_success
  assert_output --partial 'nothing to do'
  run find . -newer "$BATS_TEST_TMPDIR/before"
  assert_output ''
  run ./setup_local.sh --check
  assert_success
  assert_output --partial 'packages match'
}

# bats test_tags=slow
@test "the summary needs no awk that takes line breaks in -v, which BSD's does not" {
  mkdir bin
  cat >bin/awk <<END
#!/bin/bash
[ "\$1" != -v ] || [ "\${2/\$'\n'/}" = "\$2" ] || exit 2
exec "$(command -v awk)" "\$@"
END
  chmod +x bin/awk
  run bin/awk -v $'x=a\nb' '{ print x }' </dev/null
  assert_failure 2
  PATH=$PWD/bin:$PATH run ./setup_local.sh
  assert_success
}

@test "--check without an environment says so and makes nothing" {
  run ./setup_local.sh --check
  assert_failure 1
  assert_output --partial 'FAIL  packages  not set up'
  assert_output --partial 'FAIL  folders  missing: data/raw'
  [ ! -e .envs ] && [ ! -e data ]
}

# bats test_tags=slow
@test "another lock makes another environment and deletes the old one" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  small_lock xxhash >>small.txt
  run ./setup_local.sh --check
  assert_failure 1
  assert_output --partial 'made from another lock'
  ./setup_local.sh
  [ "$(readlink .venv-local)" != "$first" ]
  [ "$(folders local)" = "$(readlink .venv-local)" ]
  .venv-local/bin/python -c 'import xxhash'
}

# bats test_tags=slow
@test "--force builds anew beside the environment that stands" {
  ./setup_local.sh
  first=$(readlink .venv-local)
  run ./setup_local.sh --force
  assert_success
  [ "$(readlink .venv-local)" != "$first" ]
  [ "$(folders local)" = "$(readlink .venv-local)" ]
  works local
}

@test "a disk without room stops the set-up before anything is made" {
  printf 'FAIL  disk  3 GB free\n      fix: free 17 GB\n' >table
  printf 'import sys\nprint(open("table").read())\nsys.exit(1)\n' >scripts/check_storage.py
  run ./setup_local.sh
  assert_failure 1
  assert_equal "${lines[${#lines[@]} - 1]}" 'setup_local.sh: disk: 3 GB free; free 17 GB'
  [ ! -e .venv-local ] && [ -z "$(folders local)" ]
}

@test "a folder of the user's in the link's place is left alone" {
  mkdir .venv-local
  : >.venv-local/mine
  run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'is a folder of yours, not a link; move it away'
  [ -f .venv-local/mine ]
}

# bats test_tags=slow
@test "settings that send packages elsewhere do no harm" {
  PIP_TARGET=/nowhere PIP_USER=1 PIP_PREFIX=/nowhere PYTHONPATH=/nowhere PYTHONHOME=/nowhere \
    run ./setup_local.sh
  assert_success
  works local
}

# bats test_tags=slow
@test "the user's index holds for uv: PIP_INDEX_URL, and uv's own before it" {
  PIP_INDEX_URL=http://127.0.0.1:9/pip UV_HTTP_RETRIES=0 UV_CACHE_DIR=$PWD/empty run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'http://127.0.0.1:9/pip/'
  PIP_INDEX_URL=http://127.0.0.1:9/pip UV_DEFAULT_INDEX=http://127.0.0.1:9/uv UV_HTTP_RETRIES=0 \
    UV_CACHE_DIR=$PWD/empty run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'http://127.0.0.1:9/uv/'
}

@test "TANDEM_PYTHON that is no Python 3.10 to 3.13 is refused with exit 2" {
  TANDEM_PYTHON=3.9 run ./setup_local.sh
  assert_failure 2
  assert_output --partial 'TANDEM_PYTHON=3.9; it is 3.10 to 3.13, or a path'
  TANDEM_PYTHON=/bin/cat run ./setup_local.sh
  assert_failure 2
  assert_output --partial '/bin/cat is not a Python 3.10 to 3.13 that runs'
}

# bats test_tags=slow
@test "TANDEM_PYTHON chooses another Python" {
  TANDEM_PYTHON=3.12 run ./setup_local.sh
  assert_success
  case $output in *'no Python 3.12 found'*) skip "no Python 3.12 here" ;; esac
  run .venv-local/bin/python --version
  assert_output --partial 'Python 3.12'
}

# bats test_tags=slow
@test "without Python 3.10 a newer one is taken, with a warning that names TANDEM_PYTHON" {
  mkdir bin
  for tool in python3.11 python3.12 python3.13; do
    found=$("$UV" python find --no-python-downloads "${tool#python}" 2>/dev/null) || continue
    newer=${newer:-${tool#python}}
    ln -s "$found" "bin/$tool"
  done
  [ -n "${newer:-}" ] || skip "no Python newer than 3.10 here"
  # a stand-in for a uv that finds no Python, and cannot fetch one
  printf '#!/bin/sh\ncase $1 in python) exit 1 ;; esac\nexec "%s" "$@"\n' "$UV" >bin/uv
  chmod +x bin/uv
  if PATH=/usr/bin:/bin python3.10 --version >/dev/null 2>&1; then skip "3.10 is the system's"; fi
  HOME=$BATS_TEST_TMPDIR PYENV_ROOT=/nowhere PATH=$PWD/bin:/usr/bin:/bin UV=$PWD/bin/uv \
    run ./setup_local.sh
  assert_success
  assert_output --partial 'warn  no Python 3.10 found: using'
  assert_output --partial 'TANDEM_PYTHON=3.10 ./setup_local.sh'
}

# bats test_tags=slow
@test "an x86 Python on Apple silicon is refused" {
  [ "$(uname -m)" = x86_64 ] || skip "needs an x86_64 Python"
  mkdir bin
  printf '#!/bin/sh\necho 1\n' >bin/sysctl # the stand-in for Apple silicon's own
  chmod +x bin/sysctl
  PATH=$PWD/bin:$PATH run ./setup_local.sh
  assert_failure 1
  assert_output --partial 'is an x86_64 Python on an Apple silicon Mac'
}

# bats test_tags=slow
@test "without any uv the pinned one is fetched by its hashes" {
  env -u UV PATH="$(dirname "$("$UV" python find 3.10)"):/usr/bin:/bin" ./setup_local.sh
  works local
  pin=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements-local.txt)
  run ".envs/uv-$pin/bin/uv" --version
  assert_output --partial "uv $pin"
}
