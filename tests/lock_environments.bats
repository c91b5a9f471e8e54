#!/usr/bin/env bats
# lock_environments.sh with sources of one package each: real uv, real package index.

load checkout

setup() {
  checkout
  cp "$ROOT/scripts/lock_environments.sh" scripts/
  printf 'idna==3.7\nuv==0.13.8\n' >configs/requirements-remote.in
  printf 'packaging\nuv==0.13.8\n' >configs/requirements-local.in
  small_lock uv >requirements-remote.txt
  small_lock uv packaging >requirements-local.txt
}

# bats test_tags=slow
@test "locks hold every hash and name no index; --check passes after it" {
  run scripts/lock_environments.sh --check
  assert_failure 1
  assert_output --partial 'is not what configs/requirements-'
  scripts/lock_environments.sh
  run cat requirements-remote.txt requirements-local.txt
  assert_output --partial 'idna==3.7 \'
  assert_output --partial '--hash=sha256:'
  refute_output --partial '://'
  scripts/lock_environments.sh --check
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

@test "bad arguments are refused with exit 2" {
  run scripts/lock_environments.sh --upgade
  assert_failure 2
  assert_output --partial "unknown argument '--upgade'"
}
