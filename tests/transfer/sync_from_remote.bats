#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

for kind in folder ssh openrsync; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function "${tag[@]}" --description "$kind: versions, runs and reports come down" -- comes "$kind"
done
for kind in folder ssh; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function --tags slow --description "$kind: the second sync fetches nothing and starts no rsync" \
    -- again "$kind"
  bats_test_function --tags slow --description "$kind: a version is complete or not there, across SIGKILL" \
    -- killed "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a version with other content is named, not overwritten" \
    -- conflict "$kind"
  bats_test_function --tags slow --description "$kind: a flipped byte in a report is mended, on either side" \
    -- mends "$kind"
done

comes() {
  use "$1"
  results
  down
  expect 0
  says "SHA-256 verified" "checkpoints stay there; --with-checkpoints brings them"
  diff -r "$THERE/adapters/mapper" "$WORK/adapters/mapper"
  diff -r "$THERE/reports" "$WORK/reports"
  cmp "$THERE/adapters/runs/r1/status.json" "$WORK/adapters/runs/r1/status.json"
  diff -r "$THERE/adapters/runs/r1/final" "$WORK/adapters/runs/r1/final"
  [ ! -e "$WORK/adapters/runs/r1/checkpoints" ]
  [ ! -e "$WORK/adapters/.incoming" ]
  down --with-checkpoints
  expect 0
  diff -r "$THERE/adapters" "$WORK/adapters"
}

again() {
  use "$1"
  results
  down
  expect 0
  before=$(picture "$WORK/adapters" "$WORK/reports")
  RSYNC=/nowhere/rsync down
  expect 0
  says "nothing to fetch: 8 files"
  [ "$before" = "$(picture "$WORK/adapters" "$WORK/reports")" ]
}

killed() {
  use "$1"
  results
  sample "$THERE/adapters/mapper/v1.0.0/adapter_model.safetensors" 4000000
  card
  in_the_middle from
  pkill -9 -P "$CHILD"
  kill -9 "$CHILD"
  [ ! -e "$WORK/adapters/mapper" ]
  [ ! -e "$WORK/adapters/runs" ]
  unset RSYNC
  down
  expect 0
  diff -r "$THERE/adapters/mapper" "$WORK/adapters/mapper"
  [ ! -e "$WORK/adapters/.incoming" ]
}

conflict() {
  use "$1"
  results
  mkdir -p "$WORK/adapters/mapper/v1.0.0"
  printf 'WEIGHTS\n' >"$WORK/adapters/mapper/v1.0.0/adapter_model.safetensors"
  before=$(picture "$WORK/adapters/mapper")
  down
  expect 1
  says "mapper@v1.0.0 differs" "$WORK/adapters/mapper/v1.0.0 here" \
    "$TANDEM_REMOTE_DIR/adapters/mapper/v1.0.0" "register one of them under a new version"
  [ "$before" = "$(picture "$WORK/adapters/mapper")" ]
  [ -e "$WORK/reports/report.html" ] # the rest came all the same
  [ -e "$WORK/adapters/runs/r1/final/adapter_model.safetensors" ]
}

mends() {
  use "$1"
  results
  down
  expect 0
  flip "$WORK/reports/report.html"
  down
  expect 0
  says "changed   1 file"
  cmp "$THERE/reports/report.html" "$WORK/reports/report.html"
  flip "$THERE/reports/report.html"
  down
  expect 0
  cmp "$THERE/reports/report.html" "$WORK/reports/report.html"
}

@test "--help prints how to use it" {
  run -0 "$KIT/scripts/sync_from_remote.sh" --help
  says "Exit codes" "--with-checkpoints"
}

@test "a dry run changes nothing" {
  use folder
  results
  before=$(picture "$WORK/data" "$HOST_NAME")
  DRY_RUN=1 down
  expect 0
  says "new       8 files" "would be fetched"
  [ "$before" = "$(picture "$WORK/data" "$HOST_NAME")" ]
  [ ! -e "$WORK/adapters" ]
}

# bats test_tags=slow
@test "bad HOSTs are refused here too" {
  for name in 'a b' 'x;touch y' '$(touch y)' $'a\nb'; do
    HOST_NAME="$name"
    down
    expect 2
    one_line
  done
}

@test "a host without the kit is named with the remedy" {
  use folder
  down
  expect 1
  one_line
  says "does not exist" "make sync-up"
  [ ! -e "$HOST_NAME" ]
}

@test "adapters that is a file there is named with the remedy" {
  use folder
  mkdir -p "$THERE"
  : >"$THERE/adapters"
  down
  expect 1
  one_line
  says "/adapters is a file" "move it away"
}

@test "the same version already here, copied by other means, is recognised by its content" {
  use folder
  results
  mkdir -p "$WORK/adapters/mapper"
  cp -R "$THERE/adapters/mapper/v1.0.0" "$WORK/adapters/mapper/"
  touch -t 202001010000 "$WORK"/adapters/mapper/v1.0.0/*
  down
  expect 0
  down
  says "nothing to fetch"
}

# bats test_tags=slow
@test "a file there never takes the place of a folder here, nor the reverse; the rest comes" {
  use folder
  results
  cp -pR "$THERE/adapters" "$BATS_TEST_TMPDIR/whole"
  down
  expect 0
  for path in adapters/runs adapters/runs/r1 adapters/runs/r1/final adapters/mapper/v1.0.0; do
    rm -rf "$THERE/adapters" && cp -pR "$BATS_TEST_TMPDIR/whole" "$THERE/adapters"
    rm -r "${THERE:?}/$path" && printf 'x\n' >"$THERE/$path"
    printf 'news %s\n' "$path" >"$THERE/reports/report.html"
    picture "$WORK/adapters" >"$WORK/before"
    down
    expect 1
    says "$path is a file there and a folder here: " "not taken; move one of the two away"
    picture "$WORK/adapters" | diff "$WORK/before" -
    diff "$THERE/reports/report.html" "$WORK/reports/report.html"
  done
  for path in adapters/runs/r1 adapters/runs/r1/final adapters/mapper; do
    rm -rf "$THERE/adapters" "$WORK/adapters"
    cp -pR "$BATS_TEST_TMPDIR/whole" "$THERE/adapters"
    mkdir -p "$WORK/${path%/*}" && printf 'mine\n' >"$WORK/$path"
    down
    expect 1
    says "is below what is a folder there and a file here: $WORK/$path; not taken"
    [ "$(cat "$WORK/$path")" = mine ]
    [ ! -e "$WORK/adapters/.incoming" ]
  done
}
