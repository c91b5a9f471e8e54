#!/usr/bin/env bats
# sync_to_remote.sh: what travels, what is kept there, what stays here.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

@test "--kit-only leaves the data here" {
  use folder
  up --kit-only
  expect 0
  [ -f "$THERE/scripts/paths.py" ]
  [ ! -e "$THERE/data/processed/train_sft.jsonl" ]
}

# bats test_tags=slow
@test "without git the named parts of the kit travel, secrets do not" {
  use folder
  rm -rf "$KIT/.git"
  printf 'x\n' >"$KIT/notes.private"
  printf 'x\n' >"$KIT/scripts/.env"
  up
  expect 0
  [ -f "$THERE/scripts/transfer/push.py" ]
  [ ! -e "$THERE/notes.private" ]
  [ ! -e "$THERE/scripts/.env" ]
}

@test "configs of the working folder go over those of the kit" {
  use folder
  mkdir "$WORK/configs"
  printf 'mine\n' >"$WORK/configs/training_config.yaml"
  printf 'theirs\n' >"$KIT/configs/training_config.yaml"
  up
  expect 0
  [ "$(cat "$THERE/configs/training_config.yaml")" = mine ]
}

# bats test_tags=slow
@test "a data folder that is a link to another disk is followed on both sides" {
  use folder
  mkdir -p "$BATS_TEST_TMPDIR/disk" "$THERE/data" "$BATS_TEST_TMPDIR/scratch"
  rm -rf "$WORK/data/processed"
  ln -s "$BATS_TEST_TMPDIR/disk" "$WORK/data/processed"
  ln -s "$BATS_TEST_TMPDIR/scratch" "$THERE/data/processed"
  printf 'row\n' >"$BATS_TEST_TMPDIR/disk/train_sft.jsonl"
  up
  expect 0
  [ "$(cat "$BATS_TEST_TMPDIR/scratch/train_sft.jsonl")" = row ]
  [ -L "$THERE/data/processed" ]
  up
  says "nothing to send"
}

# bats test_tags=slow
@test "a data folder on another disk of the host: no half file there either, and all arrives" {
  use folder
  mkdir -p "$THERE/data/processed"
  mount -t tmpfs -o size=9m tmpfs "$THERE/data/processed" 2>/dev/null ||
    skip "mounting a disk needs root"
  printf 'x\n' >"$WORK/data/processed/.hidden"
  up
  first="$status $output $stderr"
  diff -r "$WORK/data/processed" "$THERE/data/processed" >"$BATS_TEST_TMPDIR/diff" || true
  up
  umount "$THERE/data/processed"
  printf '%s\n' "$first"
  [ ! -s "$BATS_TEST_TMPDIR/diff" ]
  says "nothing to send"
}

@test "a host that holds other versions of our files: they are kept in .replaced" {
  use folder
  mkdir -p "$THERE/docs"
  printf 'cloned there and edited\n' >"$THERE/docs/GUIDE.md"
  up
  expect 0
  [ "$(cat "$THERE/docs/GUIDE.md")" = kit ]
  [ "$(cat "$THERE"/.replaced/*/docs/GUIDE.md)" = 'cloned there and edited' ]
}

# bats test_tags=slow
@test "--verify finds damage that no signature shows" {
  use folder
  up
  expect 0
  flip "$THERE/data/synthetic/made.jsonl"
  # What a failing disk does: the record still agrees with the file's signature.
  python3 - "$WORK"/.cache/transfer/up-*.json "$THERE/data/synthetic/made.jsonl" <<'EOF'
import json, subprocess, sys
record, path = sys.argv[1:]
sys.path.insert(0, "scripts")
body = json.load(open(record))
sig = subprocess.run(
    ["find", path, "-printf", "%m %i %s %T@ %C@"], capture_output=True, text=True
).stdout
if not sig:
    sys.exit("no GNU find")
body["files"]["data/synthetic/made.jsonl"][2] = sig
json.dump(body, open(record, "w"))
EOF
  up
  expect 0
  says "nothing to send"
  up --verify
  expect 0
  says "changed   1 file"
  cmp "$WORK/data/synthetic/made.jsonl" "$THERE/data/synthetic/made.jsonl"
}

# bats test_tags=slow
@test "a damaged record costs a comparison and nothing else" {
  use folder
  up
  expect 0
  printf 'no json' >"$(echo "$WORK"/.cache/transfer/up-*.json)"
  RSYNC=/nowhere/rsync up
  expect 0
  says "nothing to send"
}

# bats test_tags=slow
@test "a file that became a folder here, and the reverse: the other kind there goes to .replaced" {
  use folder
  mkdir -p "$WORK/data/processed/folder/deep"
  printf 'first\n' | tee "$WORK/data/processed/file" >"$WORK/data/processed/folder/deep/row"
  up
  expect 0
  mkdir "$THERE/data/processed/left" # empty: nothing lists it
  mkdir "$THERE/data/processed/folder/__pycache__"
  rm -r "$WORK/data/processed/file" "$WORK/data/processed/folder"
  mkdir -p "$WORK/data/processed/file/deep"
  printf 'second\n' | tee "$WORK/data/processed/file/deep/row" "$WORK/data/processed/left" \
    >"$WORK/data/processed/folder"
  up
  expect 0
  says "kept      data/processed/file, data/processed/folder: a file there, a folder here"
  diff -r "$WORK/data/processed" "$THERE/data/processed"
  [ "$(cat "$THERE"/.replaced/*/data/processed/file)" = first ]
  [ "$(cat "$THERE"/.replaced/*/data/processed/folder/deep/row)" = first ]
  [ -z "$(find "$THERE/.replaced" -name left)" ]
  up
  expect 0
  says "nothing to send"
}

# bats test_tags=slow
@test "a loop of links or a broken one in the kit there does not fail the sync" {
  use folder
  mkdir -p "$THERE/docs"
  ln -s . "$THERE/docs/loop"
  ln -s this "$THERE/docs/this"
  up
  expect 0
  RSYNC=/nowhere/rsync up
  expect 0
  says "nothing to send"
}

@test "a symbolic link that git tracks is named as skipped" {
  use folder
  ln -s docs/GUIDE.md "$KIT/LINK.md"
  git -C "$KIT" add LINK.md
  up --dry-run
  expect 0
  says "skipped   LINK.md: a symbolic link"
}

# bats test_tags=slow
@test "files gone here stay there, until --delete N moves at most N aside" {
  use folder
  printf 'old\n' >"$WORK/data/processed/old1.jsonl"
  printf 'old\n' >"$WORK/data/processed/old2.jsonl"
  printf 'made there\n' >"$BATS_TEST_TMPDIR/theirs"
  up
  expect 0
  cp "$BATS_TEST_TMPDIR/theirs" "$THERE/data/processed/theirs.jsonl"
  rm "$WORK"/data/processed/old*.jsonl
  up --dry-run
  says "gone here 2 files" "left there"
  up --delete 1
  expect 1
  one_line
  says "2 files are gone here and --delete allows 1"
  [ -e "$THERE/data/processed/old1.jsonl" ]
  up --delete 2
  expect 0
  [ ! -e "$THERE/data/processed/old1.jsonl" ]
  [ "$(cat "$THERE"/.replaced/*/data/processed/old1.jsonl)" = old ]
  [ -e "$THERE/data/processed/theirs.jsonl" ] # never sent from here, so not ours to remove
  for n in 0 -1 all; do
    up --delete "$n"
    expect 2
  done
}

# bats test_tags=slow
@test "--delete refuses a folder that holds nothing but .gitkeep here" {
  use folder
  : >"$WORK/data/processed/.gitkeep"
  up
  expect 0
  rm "$WORK"/data/processed/*
  up --delete 50
  expect 1
  one_line
  says "data/processed is empty here"
  [ -e "$THERE/data/processed/train_sft.jsonl" ]
}

# bats test_tags=slow
@test "a file there that is edited while the sync runs is kept, a new one too" {
  use folder
  up
  expect 0
  printf 'newer\n' >>"$KIT/docs/GUIDE.md"
  printf 'new\n' >"$WORK/data/processed/extra.jsonl"
  export THERE
  RSYNC=$(wrapped_rsync '"$real" "$@"; code=$?; printf "theirs\n" >"$THERE/docs/GUIDE.md"
    printf "theirs too\n" >"$THERE/data/processed/extra.jsonl"; exit $code') up
  expect 0
  says "kept "
  cmp "$KIT/docs/GUIDE.md" "$THERE/docs/GUIDE.md"
  [ "$(cat "$THERE"/.replaced/*/docs/GUIDE.md)" = theirs ]
  [ "$(cat "$THERE"/.replaced/*/data/processed/extra.jsonl)" = 'theirs too' ]
  printf 'and newer\n' >>"$KIT/docs/GUIDE.md"
  rm -rf "$THERE/.replaced"
  up
  expect 0
  [ ! -e "$THERE/.replaced" ] # as we had sent it: nothing to keep
}

# bats test_tags=slow
@test "two laptops at once: what the second replaces is kept" {
  use folder
  up
  expect 0
  printf 'first\n' >"$WORK/data/processed/shared.jsonl"
  cp -R "$WORK" "$BATS_TEST_TMPDIR/other" && rm "$BATS_TEST_TMPDIR/other/.cache/transfer/laptop"
  printf 'second\n' >"$BATS_TEST_TMPDIR/other/data/processed/shared.jsonl"
  export OTHER="$BATS_TEST_TMPDIR/other" SYNC="$KIT/scripts/sync_to_remote.sh $HOST_NAME"
  RSYNC=$(wrapped_rsync '"$real" "$@"; code=$?
    env -u RSYNC TANDEM_WORKDIR="$OTHER" $SYNC >/dev/null 2>&1; exit $code') up
  expect 0
  [ "$(cat "$THERE/data/processed/shared.jsonl")" = first ]
  [ "$(cat "$THERE"/.replaced/*/data/processed/shared.jsonl)" = second ]
}

# bats test_tags=slow
@test "neither rsync nor ssh is needed for a folder, both ways" {
  use folder
  path=$(path_without rsync ssh scp sftp)
  PATH=$path up
  expect 0
  says "SHA-256 verified"
  diff -r "$WORK/data/processed" "$THERE/data/processed"
  mkdir -p "$THERE/reports" && printf '<p>\n' >"$THERE/reports/r.html"
  PATH=$path down
  expect 0
  cmp "$THERE/reports/r.html" "$WORK/reports/r.html"
}

# bats test_tags=slow
@test "--delete refuses a folder that is empty here" {
  use folder
  up
  expect 0
  rm "$WORK/data/synthetic/made.jsonl"
  up --delete 5
  expect 1
  says "data/synthetic is empty here"
  [ -e "$THERE/data/synthetic/made.jsonl" ]
}

# bats test_tags=slow
@test "a changed executable bit travels" {
  use folder
  up
  expect 0
  chmod +x "$KIT/docs/GUIDE.md"
  up
  expect 0
  [ -x "$THERE/docs/GUIDE.md" ]
}

# bats test_tags=slow
@test "a disk there without hard links: files of the kit's own folder and below are replaced too" {
  use folder
  mkdir "$BATS_TEST_TMPDIR/bin"
  printf '#!/bin/sh\nexit 1\n' >"$BATS_TEST_TMPDIR/bin/ln" && chmod +x "$BATS_TEST_TMPDIR/bin/ln"
  PATH="$BATS_TEST_TMPDIR/bin:$PATH" up
  expect 0
  printf 'mine\n' | tee "$THERE/.gitignore" >"$THERE/docs/GUIDE.md"
  printf '# second\n' >>"$KIT/.gitignore"
  printf 'second\n' | tee "$KIT/docs/GUIDE.md" >"$KIT/new" && git -C "$KIT" add new
  PATH="$BATS_TEST_TMPDIR/bin:$PATH" up
  expect 0
  cmp "$KIT/.gitignore" "$THERE/.gitignore"
  cmp "$KIT/docs/GUIDE.md" "$THERE/docs/GUIDE.md"
  [ "$(cat "$THERE"/.replaced/*/.gitignore "$THERE"/.replaced/*/docs/GUIDE.md)" = $'mine\nmine' ]
  [ -z "$(find "$THERE" -name .incoming)" ]
}
