#!/usr/bin/env bats
# lock_environments.sh with sources of one package each: real uv, real package index.

load ../support/checkout

setup() {
  checkout
  unset UV_CACHE_DIR # nothing is damaged here
  cp "$ROOT/scripts/lock_environments.sh" scripts/
  printf 'idna==3.7\n' >configs/requirements-remote.in
  printf 'packaging\n' >configs/requirements-local.in
  printf 'attrs\nidna\n' >configs/requirements-serve.in
  small_lock attrs idna >configs/requirements-serve.txt
  small_lock idna >requirements-remote.txt
  small_lock packaging >requirements-local.txt
}

# bats test_tags=slow
@test "locks hold every hash and name no index" {
  run scripts/lock_environments.sh --check
  assert_failure 1
  assert_output --partial 'is not what configs/requirements-'
  scripts/lock_environments.sh
  run cat requirements-remote.txt requirements-local.txt
  assert_output --partial 'idna==3.7 \'
  assert_output --partial '--hash=sha256:'
  refute_output --partial '://'
  run cat configs/requirements-serve.txt
  assert_output --partial 'idna==3.7 \' # the exact pins of the training environment hold
  assert_output --partial '# Linux x86-64. Made from'
  [ ! -e requirements-serve.txt ]
}

# bats test_tags=slow
@test "a source without a solution leaves both locks as they were" {
  cp requirements-local.txt requirements-remote.txt "$BATS_TEST_TMPDIR"
  printf 'idna==99999\n' >configs/requirements-local.in
  run scripts/lock_environments.sh
  assert_failure 1
  assert_output --partial 'configs/requirements-local.in has no solution'
  cmp requirements-remote.txt "$BATS_TEST_TMPDIR/requirements-remote.txt"
  cmp requirements-local.txt "$BATS_TEST_TMPDIR/requirements-local.txt"
  run find .envs -name '.locks.*'
  assert_output ''
}

@test "a lock begins with what made it, how to change it, and why each exact version" {
  printf 'idna==3.7   # the last one\n            # that we know\npackaging\n' >configs/requirements-remote.in
  pins=$(cat requirements-remote.txt)
  scripts/lock_environments.sh --headers
  run cat requirements-remote.txt
  assert_line --index 0 --partial 'The remote environment'
  assert_output --partial 'Made from configs/requirements-remote.in by `make lock` (uv '
  assert_output --partial "make lock ARGS="
  assert_line --regexp '^#   idna==3.7 +the last one$'
  assert_line --regexp '^# +that we know$'
  [ "$(grep -v '^#' requirements-remote.txt | sed '/^$/d')" = "$pins" ]
  cp requirements-remote.txt "$BATS_TEST_TMPDIR/once"
  scripts/lock_environments.sh --headers
  cmp requirements-remote.txt "$BATS_TEST_TMPDIR/once"
}

@test "bad arguments are refused with exit 2" {
  run scripts/lock_environments.sh --upgade
  assert_failure 2
  assert_output --partial "unknown argument '--upgade'"
}
