#!/usr/bin/env bats
# sync_from_remote.sh: versions, final/ and checkpoints come whole or not at all; what it replaces.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

# bats test_tags=slow
@test "a version that is not what its card says stays out, the rest comes" {
  use folder
  results
  printf 'Weights\n' >"$THERE/adapters/mapper/v1.0.0/adapter_model.safetensors"
  down
  expect 1
  says "adapters/mapper/v1.0.0 is not what its card.json says (adapters/mapper/v1.0.0/adapter_model"
  [ ! -e "$WORK/adapters/mapper" ]
  [ -e "$WORK/reports/report.html" ]
  card
  down
  expect 0
  diff -r "$THERE/adapters/mapper" "$WORK/adapters/mapper"
}

@test "a version with a missing file stays out" {
  use folder
  results
  rm "$THERE/adapters/mapper/v1.0.0/adapter_config.json"
  down
  expect 1
  says "adapter_config.json"
  [ ! -e "$WORK/adapters/mapper" ]
}

@test "a version without a card is compared with the host alone, and that is said" {
  use folder
  results
  rm "$THERE/adapters/mapper/v1.0.0/card.json"
  down
  expect 0
  says "has no card.json"
  [ -e "$WORK/adapters/mapper/v1.0.0/adapter_model.safetensors" ]
}

# bats test_tags=slow
@test "what arrives damaged is fetched again; what keeps arriving damaged never appears" {
  use folder
  results
  export MARK="$BATS_TEST_TMPDIR/mark"
  damage='"$real" "$@" || exit; file=${*: -1}/mapper/v1.0.0/adapter_model.safetensors
    if [ -e "$file" ] && [ ! -e "$MARK" ]; then %s printf X | dd of="$file" bs=1 conv=notrunc 2>/dev/null; fi'
  RSYNC=$(wrapped_rsync "${damage/\%s/}") down
  expect 1
  says "adapters/mapper/v1.0.0 differs from the host's"
  [ ! -e "$WORK/adapters/mapper" ]
  [ -e "$WORK/reports/report.html" ]
  RSYNC=$(wrapped_rsync "${damage/\%s/: >\"\$MARK\";}") down
  expect 0
  diff -r "$THERE/adapters/mapper" "$WORK/adapters/mapper"
}

# bats test_tags=slow
@test "a run that is still being written comes as far as it is, and that is said" {
  use folder
  results
  export LIVE="$THERE/adapters/runs/r1/metrics.jsonl"
  RSYNC=$(wrapped_rsync 'printf "{}\n" >>"$LIVE"; "$real" "$@"; code=$?
    printf "{}\n" >>"$LIVE"; exit $code') down
  expect 0
  [ -e "$WORK/adapters/mapper/v1.0.0/card.json" ]
  [ -s "$WORK/adapters/runs/r1/metrics.jsonl" ]
  down
  expect 0
  cmp "$LIVE" "$WORK/adapters/runs/r1/metrics.jsonl"
}

# bats test_tags=slow
@test "a file that vanishes there while it is fetched is left out" {
  use folder
  results
  export GONE="$THERE/adapters/runs/r1/metrics.jsonl"
  RSYNC=$(wrapped_rsync 'rm -f "$GONE"; "$real" "$@"') down
  expect 0
  [ ! -e "$WORK/adapters/runs/r1/metrics.jsonl" ]
  [ -e "$WORK/adapters/runs/r1/status.json" ]
}

@test "final/ of a run is renewed as a whole, and the one before is kept" {
  use folder
  results
  down
  expect 0
  printf 'more weights\n' >"$THERE/adapters/runs/r1/final/adapter_model.safetensors"
  printf 'new\n' >"$THERE/adapters/runs/r1/final/README.md"
  down
  expect 0
  diff -r "$THERE/adapters/runs/r1/final" "$WORK/adapters/runs/r1/final"
  [ "$(cat "$WORK"/adapters/.replaced/*/runs/r1/final/adapter_model.safetensors)" = weights ]
  says "kept " "runs/r1/final: what was here before"
}

@test "final/ there that lacks a file that is here: neither is changed, and that is said" {
  use folder
  results
  down
  expect 0
  printf 'mine\n' >"$WORK/adapters/runs/r1/final/notes.md"
  printf 'more weights\n' >"$THERE/adapters/runs/r1/final/adapter_model.safetensors"
  before=$(picture "$WORK/adapters/runs/r1/final")
  down
  expect 1
  says "lacks what is here: notes.md" "move $WORK/adapters/runs/r1/final away first"
  [ "$before" = "$(picture "$WORK/adapters/runs/r1/final")" ]
}

# bats test_tags=slow
@test "final/ there without weights, or without a configuration, replaces nothing here" {
  use folder
  results
  down
  expect 0
  before=$(picture "$WORK/adapters/runs/r1/final")
  for name in adapter_model.safetensors adapter_config.json; do
    mv "$THERE/adapters/runs/r1/final/$name" "$BATS_TEST_TMPDIR/aside"
    printf 'x\n' >"$THERE/adapters/runs/r1/final/README.md"
    down
    expect 1
    says "there, so the one here stays"
    [ "$before" = "$(picture "$WORK/adapters/runs/r1/final")" ]
    mv "$BATS_TEST_TMPDIR/aside" "$THERE/adapters/runs/r1/final/$name"
  done
  rm -rf "$WORK/adapters/runs/r1/final" "$THERE/adapters/runs/r1/final/adapter_model.safetensors"
  down # not finished there, and nothing here to lose
  expect 0
  says "not whole there (its weights missing)"
  [ ! -e "$WORK/adapters/runs/r1/final" ]
}

# bats test_tags=slow
@test "a version with a file that its card does not list, or a card that lists none, stays out" {
  use folder
  results
  printf 'x\n' >"$THERE/adapters/mapper/v1.0.0/extra.bin"
  down
  expect 1
  says "extra.bin: not in the card"
  [ ! -e "$WORK/adapters/mapper" ]
  rm "$THERE/adapters/mapper/v1.0.0/extra.bin"
  for files in '{}' '[]' '{"a": 1}' '{"../../x": {"sha256": "00"}}'; do
    printf '{"files": %s}\n' "$files" >"$THERE/adapters/mapper/v1.0.0/card.json"
    down
    expect 1
    says "does not list its files"
    [ ! -e "$WORK/adapters/mapper" ]
  done
}

@test "a checkpoint that the trainer still writes stays there until it is whole" {
  use folder
  results
  mkdir "$THERE/adapters/runs/r1/checkpoints/checkpoint-4"
  printf 'half\n' >"$THERE/adapters/runs/r1/checkpoints/checkpoint-4/optimizer.pt"
  down --with-checkpoints
  expect 0
  says "checkpoint-4: not whole there (trainer_state.json missing)"
  [ -e "$WORK/adapters/runs/r1/checkpoints/checkpoint-2/optimizer.pt" ]
  [ ! -e "$WORK/adapters/runs/r1/checkpoints/checkpoint-4" ]
  printf '{"global_step": 4}\n' >"$THERE/adapters/runs/r1/checkpoints/checkpoint-4/trainer_state.json"
  down --with-checkpoints
  expect 0
  diff -r "$THERE/adapters/runs" "$WORK/adapters/runs"
}

@test "a checkpoint of which a file is cut off, or that has not got its name yet, stays there" {
  use folder
  results
  half="$THERE/adapters/runs/r1/checkpoints/checkpoint-4"
  cut() { # FILE CONTENT WORDS
    rm -rf "$half"
    mkdir "$half"
    printf '{"global_step": 4}\n' >"$half/trainer_state.json"
    printf '%s' "$2" >"$half/$1"
    down --with-checkpoints
    expect 1
    says "checkpoint-4 is not whole ($1$3)"
    [ ! -e "$WORK/adapters/runs/r1/checkpoints/checkpoint-4" ]
  }
  cut trainer_state.json '{"global_step": 4, "log_his' ' is cut off'
  cut adapter_model.safetensors 'xx' ': 2 bytes are no safetensors file'
  cut optimizer.pt '' ' is empty'
  rm -rf "$half"
  mkdir "${half%/*}/tmp-checkpoint-4"
  printf '{"global_step": 4}\n' >"${half%/*}/tmp-checkpoint-4/trainer_state.json"
  down --with-checkpoints
  expect 0
  says "tmp-checkpoint-4: not whole there"
  [ ! -e "$WORK/adapters/runs/r1/checkpoints/tmp-checkpoint-4" ]
}

@test "a file here that is edited while the sync runs is kept" {
  use folder
  results
  down
  expect 0
  printf '<p>newer\n' >"$THERE/reports/report.html"
  export EDITED="$WORK/reports/report.html"
  RSYNC=$(wrapped_rsync '"$real" "$@"; code=$?; printf "mine\n" >"$EDITED"; exit $code') down
  expect 0
  cmp "$THERE/reports/report.html" "$WORK/reports/report.html"
  [ "$(cat "$WORK"/reports/.replaced/*/report.html)" = mine ]
  says "kept "
}

@test "names that mean one file on a Mac, and names that are no plain path, are refused by name" {
  use folder
  results
  [ ! -e "$THERE/ADAPTERS" ] || skip "this disk ignores case"
  mkdir -p "$THERE/adapters/Mapper/v1.0.0"
  printf 'x\n' | tee "$THERE/adapters/runs/r1/final/README.md" \
    >"$THERE/adapters/runs/r1/final/readme.md"
  printf 'x\n' >"$THERE/adapters/Mapper/v1.0.0/w"
  printf 'x\n' >"$THERE/reports/two"$'\n'"lines"
  down
  expect 1
  says "is the same name as adapters/" "where case is ignored" "has a line break in its name" \
    "not taken"
  [ ! -e "$WORK/adapters/runs/r1/final" ]
  [ -e "$WORK/adapters/runs/r1/status.json" ]
  [ "$(find "$WORK/adapters" -maxdepth 1 -iname mapper | wc -l)" -eq 1 ]
  says "rename one of the two"
  mkdir -p "$THERE/adapters/accents/v1.0.0"
  printf 'x\n' >"$THERE/adapters/accents/v1.0.0/$(printf 'caf\303\251')"
  [ ! -e "$THERE/adapters/accents/v1.0.0/$(printf 'cafe\314\201')" ] || skip "one name here"
  printf 'y\n' >"$THERE/adapters/accents/v1.0.0/$(printf 'cafe\314\201')"
  down
  expect 1
  says "where composed and single letters are one"
  [ ! -e "$WORK/adapters/accents" ]
}

# bats test_tags=slow
@test "a name that is here in another spelling: said by name, and both sides stay as they are" {
  use folder
  results
  printf 'x\n' | tee "$THERE/reports/Readme.md" "$THERE/reports/b.html" >"$THERE/reports/"$'e\xcc\x81.md'
  mkdir -p "$WORK/reports" "$WORK/adapters/Mapper/v2.0.0" "$WORK/adapters/runs/R1"
  printf 'mine\n' | tee "$WORK/reports/README.md" "$WORK/adapters/Mapper/v2.0.0/w" \
    "$WORK/adapters/runs/R1/status.json" >"$WORK/reports/"$'\xc3\xa9.md'
  mine() { cat "$WORK"/adapters/Mapper/v2.0.0/w "$WORK"/adapters/runs/R1/* "$WORK"/reports/*.md; }
  before=$(mine)
  down
  expect 1
  says "reports/Readme.md is the same name as" "reports/README.md here" "e"$'\xcc\x81.md' \
    "adapters/mapper/v1.0.0 is the same name as" "adapters/Mapper here where case is ignored" \
    "adapters/runs/r1/final, adapters/runs/r1/" "adapters/runs/R1 here" "not taken"
  [ "$before" = "$(mine)" ]
  [ "$(find "$WORK/adapters" "$WORK/reports" -type f | wc -l)" -eq 6 ] # b.html and report.html came
  rm -rf "$WORK/adapters/Mapper" "$WORK/adapters/runs/R1" "$WORK"/reports/*.md
  down
  expect 0
  diff -r "$THERE/reports" "$WORK/reports"
  printf 'y\n' >"$THERE/reports/Readme.md" # the same spelling again is no clash
  down
  expect 0
  diff -r "$THERE/reports" "$WORK/reports"
}

@test "a file edited here is kept in .replaced before the host's takes its place" {
  use folder
  results
  mkdir -p "$WORK/reports"
  printf 'mine\n' >"$WORK/reports/report.html"
  down
  expect 0
  cmp "$THERE/reports/report.html" "$WORK/reports/report.html"
  [ "$(cat "$WORK"/reports/.replaced/*/report.html)" = mine ]
}

@test "secrets, links and unfinished folders of the host do not come" {
  use folder
  results
  mkdir -p "$THERE/adapters/mapper/.v1.1.0.abc.part"
  printf 'half\n' >"$THERE/adapters/mapper/.v1.1.0.abc.part/adapter_model.safetensors"
  printf 'x\n' >"$THERE/adapters/runs/r1/.env"
  : >"$THERE/adapters/runs/r1/.lock"
  ln -s /etc/passwd "$THERE/reports/link"
  down
  expect 0
  [ -z "$(find "$WORK/adapters" "$WORK/reports" -name '*.part' -o -name .env -o -name .lock -o -name link)" ]
}

@test "runs on another disk, behind a link, come too" {
  use folder
  results
  mv "$THERE/adapters" "$BATS_TEST_TMPDIR/scratch"
  ln -s "$BATS_TEST_TMPDIR/scratch" "$THERE/adapters"
  down
  expect 0
  diff -r "$BATS_TEST_TMPDIR/scratch/mapper" "$WORK/adapters/mapper"
}

one_line_at_the_end() { [ "$(printf '%s\n' "$stderr" | grep -c '^sync_from_remote.sh:')" -eq 1 ]; }
@test "runs on another disk here: no half file there either, and all arrives" {
  use folder
  results
  mkdir -p "$WORK/adapters/runs"
  mount -t tmpfs -o size=9m tmpfs "$WORK/adapters/runs" 2>/dev/null ||
    skip "mounting a disk needs root"
  down
  first="$status $output $stderr"
  rm -rf "$THERE/adapters/runs/r1/checkpoints"
  diff -r "$THERE/adapters/runs" "$WORK/adapters/runs" >"$BATS_TEST_TMPDIR/diff" || true
  down
  umount "$WORK/adapters/runs"
  printf '%s\n' "$first"
  [ ! -s "$BATS_TEST_TMPDIR/diff" ]
  says "nothing to fetch"
}

@test "no room here: said before anything is fetched" {
  use folder
  results
  sample "$THERE/reports/big" 8000000
  mkdir "$WORK/adapters" "$WORK/reports"
  mount -t tmpfs -o size=6m tmpfs "$WORK/reports" 2>/dev/null || skip "mounting a disk needs root"
  down
  left=$(ls -A "$WORK/reports")
  umount "$WORK/reports"
  expect 1
  one_line_at_the_end
  says "to fetch and" "free here"
  [ -z "$left" ]
}

# bats test_tags=slow
@test "Ctrl-C ends it with 130 and says how to go on" {
  use folder
  results
  sample "$THERE/adapters/mapper/v1.0.0/adapter_model.safetensors" 4000000
  card
  in_the_middle from
  kill -INT "$CHILD"
  ends_with 130
  grep -q 'run the same command again' "$WORK/stderr"
  [ ! -e "$WORK/adapters/mapper" ]
}
