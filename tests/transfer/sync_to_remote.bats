#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

setup_file() {
  load ../support/transfer
  transfer_setup_file
}
teardown_file() {
  load ../support/transfer
  transfer_teardown_file
}
setup() {
  load ../support/transfer
  transfer_setup
}
teardown() {
  end_child
}

for kind in folder ssh openrsync; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function "${tag[@]}" --description "$kind: the kit, its configs and the data arrive" -- arrives "$kind"
  bats_test_function "${tag[@]}" --description "$kind: the second sync sends nothing and starts no rsync" \
    -- again "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a changed file is replaced, the others stay untouched" \
    -- changes "$kind"
  bats_test_function "${tag[@]}" --description "$kind: any file name travels as it is" -- any_name "$kind"
done
for kind in folder ssh; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function "${tag[@]}" --description "$kind: a flipped byte with the same size and time is mended" \
    -- mends "$kind"
  bats_test_function "${tag[@]}" --description "$kind: secrets, git, environments, models, raw data stay here" \
    -- stays "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a dry run changes nothing on either side" -- plans "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a file edited there is kept in .replaced" -- keeps "$kind"
  bats_test_function "${tag[@]}" --description "$kind: killed with SIGKILL, the next sync finishes it" \
    -- killed "$kind"
done

arrives() {
  use "$1"
  up
  expect 0
  [ -z "$(printf '%s' "$output" | sed 1d)" ]
  says "$HOST_NAME" "SHA-256 verified" "sent "
  cmp "$WORK/data/processed/train_sft.jsonl" "$THERE/data/processed/train_sft.jsonl"
  cmp "$WORK/data/synthetic/made.jsonl" "$THERE/data/synthetic/made.jsonl"
  diff -r "$KIT/configs" "$THERE/configs"
  (cd "$KIT" && git ls-files -z | xargs -0 cksum) >"$BATS_TEST_TMPDIR/here"
  (cd "$KIT" && git ls-files -z | (cd "$THERE" && xargs -0 cksum) ) >"$BATS_TEST_TMPDIR/there"
  cmp "$BATS_TEST_TMPDIR/here" "$BATS_TEST_TMPDIR/there"
  [ -x "$THERE/scripts/sync_to_remote.sh" ]
  [ ! -e "$THERE/.incoming" ]
}

again() {
  use "$1"
  up
  expect 0
  before=$(picture "$THERE")
  RSYNC=/nowhere/rsync up
  expect 0
  says "nothing to send"
  [ "$before" = "$(picture "$THERE")" ]
}

changes() {
  use "$1"
  sample "$WORK/data/processed/big" 3000000
  up
  expect 0
  printf 'more\n' >>"$WORK/data/processed/big"
  printf 'new\n' >"$WORK/data/processed/new.jsonl"
  touch -t 202001010000 "$THERE/docs/GUIDE.md" # the same content: compared, not an error
  untouched=$(ls -lin "$THERE/data/synthetic/made.jsonl")
  up
  expect 0
  says "new       1 file" "changed   2 files" "data/processed/big"
  cmp "$WORK/data/processed/big" "$THERE/data/processed/big"
  cmp "$WORK/data/processed/new.jsonl" "$THERE/data/processed/new.jsonl"
  [ "$untouched" = "$(ls -lin "$THERE/data/synthetic/made.jsonl")" ]
}

any_name() {
  use "$1"
  (
    cd "$WORK/data/processed" || exit
    for name in 'a b' '$(touch pwned)' "it's" '-rf' 'a:b' '*' 'ü "q"' 'back\slash'; do
      printf '%s\n' "$name" >"./$name"
    done
  )
  up
  expect 0
  diff -r "$WORK/data/processed" "$THERE/data/processed"
  up
  says "nothing to send"
}

mends() {
  use "$1"
  up
  expect 0
  flip "$THERE/data/synthetic/made.jsonl"
  up
  expect 0
  says "changed   1 file"
  cmp "$WORK/data/synthetic/made.jsonl" "$THERE/data/synthetic/made.jsonl"
  flip "$WORK/data/synthetic/made.jsonl"
  up
  expect 0
  says "changed   1 file"
  cmp "$WORK/data/synthetic/made.jsonl" "$THERE/data/synthetic/made.jsonl"
}

stays() {
  use "$1"
  mkdir -p "$KIT/.credentials" "$KIT/.envs/e" "$KIT/models/base" "$WORK/models/base" "$WORK/data/raw"
  for path in .env .env.local server.pem configs/hf_token.txt configs/id_ed25519 \
    scripts/api.key .credentials/hf .envs/e/python models/base/model.safetensors; do
    printf 'secret\n' >"$KIT/$path"
  done
  git -C "$KIT" add -Af >/dev/null
  printf 'raw\n' >"$WORK/data/raw/page.html"
  printf 'w\n' >"$WORK/models/base/model.safetensors"
  printf 'TOKEN=1\n' >"$WORK/data/processed/.env"
  ln -s /etc/passwd "$WORK/data/processed/link"
  printf 'x\n' >"$WORK/data/processed/two"$'\n'"lines"
  up
  expect 0
  says "a secret" ".env, .env.local" "base models stay" "raw data stays" "a symbolic link" \
    "a line break in its name"
  run find "$THERE" \( -name '.env*' -o -name '*.pem' -o -name '*token*' -o -name 'id_*' \
    -o -name '*.key' -o -name .credentials -o -name .git -o -name 'model.safetensors' \
    -o -name page.html -o -name link -o -name 'two*' -o -name '.venv*' \)
  [ -z "$output" ]
}

plans() {
  use "$1"
  printf 'x\n' >"$WORK/data/processed/.env"
  before=$(picture "$WORK/data" "$KIT" "$BATS_TEST_TMPDIR/host" "$SSHD/home")
  up --dry-run
  expect 0
  says "new " "would be sent" "train_sft.jsonl" "a secret"
  [ -z "$stderr" ]
  DRY_RUN=1 up
  expect 0
  says "would be sent"
  [ "$before" = "$(picture "$WORK/data" "$KIT" "$BATS_TEST_TMPDIR/host" "$SSHD/home")" ]
}

keeps() {
  use "$1"
  up
  expect 0
  printf 'edited on the host\n' >"$THERE/docs/GUIDE.md"
  up
  expect 0
  says "docs/GUIDE.md: not as we sent it"
  [ "$(cat "$THERE/docs/GUIDE.md")" = kit ]
  [ "$(cat "$THERE"/.replaced/*/docs/GUIDE.md)" = 'edited on the host' ]
}

killed() {
  use "$1"
  sample "$WORK/data/processed/big" 4000000
  up --kit-only
  expect 0
  slow_rsync
  "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" </dev/null >/dev/null 2>&1 3>&- &
  CHILD=$!
  until_true arriving
  pkill -9 -P "$CHILD"
  kill -9 "$CHILD"
  until_true half_kept
  [ ! -e "$THERE/data/processed/big" ]
  [ ! -e "$THERE/data/processed/manifest.json" ]
  unset RSYNC
  up
  expect 0
  cmp "$WORK/data/processed/big" "$THERE/data/processed/big"
  [ ! -e "$THERE/.incoming" ]
}
half_kept() { [ -n "$(find "$THERE/.incoming" -path '*/.rsync-partial/big')" ]; }
# The big file has begun to arrive.
arriving() {
  [ -n "$(find "$THERE/.incoming" -size +100k -name '*big*' 2>/dev/null)" ]
}

@test "--help prints how to use it and touches nothing" {
  run -0 "$KIT/scripts/sync_to_remote.sh" --help
  says "Exit codes" "--dry-run" "--delete N"
}

@test "no HOST at all is a misuse that says the three ways to name one" {
  HOST_NAME=''
  up
  expect 2
  one_line
  says "no HOST given" "HOST=" "configs/paths_config.json"
}

@test "HOST comes from the argument, the variable or the configuration" {
  use folder
  HOST="$HOST_NAME" run -0 "$KIT/scripts/sync_to_remote.sh" --dry-run
  TANDEM_HOST="$HOST_NAME" run -0 "$KIT/scripts/sync_to_remote.sh" --dry-run
  sed "s|\"host\": \"\"|\"host\": \"$HOST_NAME\"|" "$KIT/configs/paths_config.json" >"$WORK/c"
  cp "$WORK/c" "$KIT/configs/paths_config.json"
  run -0 "$KIT/scripts/sync_to_remote.sh" --dry-run
  HOST=/nowhere/at/all run -2 "$KIT/scripts/sync_to_remote.sh" --dry-run
}

# bats test_tags=slow
@test "a HOST that is no name is refused and nothing of it is executed" {
  marker="$BATS_TEST_TMPDIR/marker"
  before=$(picture "$WORK" "$KIT")
  for name in "gpu 1" "gpu1;touch $marker" "\$(touch $marker)" "\`touch $marker\`" \
    $'gpu1\ntouch '"$marker" "-oProxyCommand=touch $marker" "gpu1:/x" "me@" "@gpu1" "me@-x" \
    "gpü" $'./folder\nx'; do
    HOST="$name" run --separate-stderr "$KIT/scripts/sync_to_remote.sh"
    expect 2
    one_line
    HOST_NAME="$name"
    up
    expect 2
    [ ! -e "$marker" ]
  done
  [ "$before" = "$(picture "$WORK" "$KIT")" ]
}

# bats test_tags=slow
@test "a remote_dir that a far shell could misread is refused" {
  use folder
  for folder in '../x' 'a/../b' '-x' 'a b' 'a$(touch x)' '~root/x' '.' '/' 'a;b' $'a\nb'; do
    TANDEM_REMOTE_DIR="$folder" up
    expect 2
    one_line
    [ ! -e "$HOST_NAME" ]
  done
}

@test "a folder HOST without a parent, or this checkout itself, is refused" {
  HOST_NAME="$BATS_TEST_TMPDIR/no/such"
  up
  expect 2
  says "mkdir -p"
  HOST_NAME="$BATS_TEST_TMPDIR"
  TANDEM_REMOTE_DIR=kit up
  expect 2
  says "this checkout itself"
}

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
@test "Ctrl-C ends it with 130 and says how to go on" {
  use folder
  sample "$WORK/data/processed/big" 4000000
  slow_rsync
  "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" </dev/null >/dev/null 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true arriving
  kill -INT "$CHILD"
  ends_with 130
  grep -q 'interrupted; nothing is lost: run the same command again' "$WORK/stderr"
  [ ! -e "$THERE/data" ]
}

# bats test_tags=slow
@test "SIGTERM ends it with 143 and its rsync with it" {
  use folder
  sample "$WORK/data/processed/big" 4000000
  slow_rsync
  "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" </dev/null >/dev/null 2>&1 3>&- &
  CHILD=$!
  until_true arriving
  rsyncs=$(pgrep -P "$CHILD")
  kill "$CHILD"
  ends_with 143
  for pid in $rsyncs; do until_true gone "$pid"; done
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# bats test_tags=slow
@test "two syncs with one host at once: the second ends and says so" {
  use folder
  sample "$WORK/data/processed/big" 4000000
  slow_rsync
  "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" </dev/null >/dev/null 2>&1 3>&- &
  CHILD=$!
  until_true arriving
  up
  expect 1
  one_line
  says "another sync" "is running"
}

# bats test_tags=slow
@test "a lost connection is taken up again by itself" {
  use ssh
  sample "$WORK/data/processed/big" 1500000
  slow_rsync
  "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" </dev/null >"$WORK/stdout" 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true arriving
  cut_line
  ends_with 0
  grep -q 'connection lost' "$WORK/stderr"
  cmp "$WORK/data/processed/big" "$THERE/data/processed/big"
}

# bats test_tags=slow
@test "a line that goes silent is noticed and taken up again" {
  use ssh
  sample "$WORK/data/processed/big" 1500000
  slow_rsync
  TANDEM_SSH_ALIVE=1 "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" \
    </dev/null >"$WORK/stdout" 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true arriving
  pkill -STOP -P "$(cat "$SSHD/sshd.pid")"
  ends_with 0
  grep -q 'connection lost' "$WORK/stderr"
  cmp "$WORK/data/processed/big" "$THERE/data/processed/big"
}

# bats test_tags=slow
@test "a connection that is lost while the host lists, hashes or puts in place is taken up again" {
  use ssh
  mkdir "$BATS_TEST_TMPDIR/lies"
  printf 'PATH=%s:$PATH; export PATH\n' "$BATS_TEST_TMPDIR/lies" >"$SSHD/env"
  up
  expect 0
  for tool in find openssl xargs mv rm; do
    printf '#!/bin/sh\nif mkdir "%s" 2>/dev/null; then sh "%s"; sleep 9; fi\nexec "%s" "$@"\n' \
      "$BATS_TEST_TMPDIR/cut-$tool" "$SSHD/cut" "$(command -v "$tool")" >"$BATS_TEST_TMPDIR/lies/$tool"
    chmod +x "$BATS_TEST_TMPDIR/lies/$tool"
    printf '%s\n' "$tool" | tee "$WORK/data/processed/for-$tool" >>"$WORK/data/processed/train_sft.jsonl"
    up
    expect 0
    says "again in" "SHA-256 verified"
    [ -d "$BATS_TEST_TMPDIR/cut-$tool" ]
    diff -r "$WORK/data/processed" "$THERE/data/processed"
    rm "$BATS_TEST_TMPDIR/lies/$tool"
  done
  rm "$SSHD/env"
}

@test "a file rewritten while it travels arrives as it is in the end" {
  use folder
  export FILE="$WORK/data/processed/train_sft.jsonl" MARK="$BATS_TEST_TMPDIR/mark"
  RSYNC=$(wrapped_rsync '"$real" "$@" || exit; if [ ! -e "$MARK" ]; then
    : >"$MARK"; printf "later\n" >"$FILE"; fi') up
  expect 0
  [ "$(cat "$THERE/data/processed/train_sft.jsonl")" = later ]
}

# bats test_tags=slow
@test "what arrives damaged is sent again; what keeps arriving damaged is never put in place" {
  use folder
  export MARK="$BATS_TEST_TMPDIR/mark"
  damage='"$real" "$@" || exit; file=${*: -1}/data/synthetic/made.jsonl
    if [ -e "$file" ] && [ ! -e "$MARK" ]; then %s printf X | dd of="$file" bs=1 conv=notrunc 2>/dev/null; fi'
  RSYNC=$(wrapped_rsync "${damage/\%s/: >\"\$MARK\";}") up
  expect 0
  cmp "$WORK/data/synthetic/made.jsonl" "$THERE/data/synthetic/made.jsonl"
  rm -rf "$MARK" "$HOST_NAME"
  RSYNC=$(wrapped_rsync "${damage/\%s/}") up
  expect 1
  says "1 file differs after 3 transfers: data/synthetic/made.jsonl"
  [ ! -e "$THERE/data" ]
}

# bats test_tags=slow
@test "rsync exit codes: which are tried again, how often, and which are final" {
  use folder
  export COUNT="$BATS_TEST_TMPDIR/count" CODE
  RSYNC=$(wrapped_rsync 'printf x >>"$COUNT"; printf "%s\n" "$SAY" >&2; exit "$CODE"')
  export RSYNC
  for case in 10:6: 12:6: 30:6: 35:6: 255:6: 23:2: 24:2: 11:1: 1:1: 5:1: \
    '255:1:Permission denied (publickey).' '255:1:Host key verification failed.' \
    '12:1:bash: rsync: command not found' '12:1:write: No space left on device'; do
    CODE=${case%%:*} tries=${case#*:} SAY=${case#*:*:}
    export SAY
    tries=${tries%%:*}
    : >"$COUNT"
    up
    expect 1
    [ "$(wc -c <"$COUNT")" -eq "$tries" ] || {
      printf 'rsync %s (%s): %s tries, not %s\n' "$CODE" "$SAY" "$(wc -c <"$COUNT")" "$tries"
      return 1
    }
  done
  [ ! -e "$THERE/data" ]
}

@test "no room there: said before anything is sent" {
  folder="$BATS_TEST_TMPDIR/small"
  mkdir "$folder"
  mount -t tmpfs -o size=6m tmpfs "$folder" 2>/dev/null || skip "mounting a small disk needs root"
  HOST_NAME="$folder/host" THERE="$folder/host/$TANDEM_REMOTE_DIR"
  sample "$WORK/data/processed/big" 8000000
  up
  left=$(ls "$folder")
  umount "$folder"
  expect 1
  says "to send and" "free there" "run it again"
  [ -z "$left" ]
}

# bats test_tags=slow
@test "no rsync there: by tar, both ways, and said to be slower" {
  use ssh
  far_path sh find df openssl sha256sum xargs dd cat mkdir printf stat tar rm rmdir mv ln sed head \
    uname python3
  printf 'x\n' >"$WORK/data/processed/a b ü"
  up
  expect 0
  says "slower    gpu-test: it has no rsync, so files go by tar" "SHA-256 verified"
  diff -r "$WORK/data/processed" "$THERE/data/processed"
  [ -x "$THERE/scripts/sync_to_remote.sh" ]
  mkdir -p "$THERE/reports" && printf '<p>\n' >"$THERE/reports/r s.html"
  down
  expect 0
  cmp "$THERE/reports/r s.html" "$WORK/reports/r s.html"
  printf 'newer\n' >>"$WORK/data/processed/train_sft.jsonl"
  far_path tar
  rm "$BATS_TEST_TMPDIR/bin/tar"
  up
  rm "$SSHD/env"
  expect 1
  says "gpu-test: rsync is missing there, and tar too" "apt-get install rsync"
}

# bats test_tags=slow
@test "no rsync here: an ssh host is served by tar" {
  use ssh
  path=$(path_without rsync)
  PATH=$path up
  expect 0
  says "slower    gpu-test: no rsync on this machine"
  diff -r "$WORK/data/processed" "$THERE/data/processed"
}

# bats test_tags=slow
@test "a login that prints a banner: by tar, and the remedy is said" {
  use ssh
  printf 'echo "Welcome to GPU box"; echo; echo "2 GPUs free"\n' >"$SSHD/env"
  up
  mkdir -p "$THERE/reports" && printf '<p>\n' >"$THERE/reports/r.html"
  first="$status $stderr"
  down
  rm "$SSHD/env"
  expect 0
  case $first in 0*"its login prints something (2 GPUs free)"*'case $- in'*) ;; *) echo "$first" && return 1 ;; esac
  diff -r "$WORK/data/processed" "$THERE/data/processed"
  cmp "$THERE/reports/r.html" "$WORK/reports/r.html"
}

@test "a login that runs no commands is said in the host's own words" {
  use ssh
  printf 'echo "Please login as the user ubuntu."; echo; exit 142\n' >"$SSHD/env"
  up
  rm "$SSHD/env"
  expect 1
  one_line
  says "does not run commands (exit 142)" "Please login as the user ubuntu."
}

@test "no rsync here: one line with the remedy" {
  use folder
  RSYNC=/nowhere/rsync up
  expect 1
  says "RSYNC=/nowhere/rsync is no program" "install it"
  [ ! -e "$THERE/data" ]
}

# bats test_tags=slow
@test "ssh troubles: each has its own line, exit 1, and changes nothing" {
  use ssh
  before=$(picture "$SSHD/home")
  trouble() { # SED-EXPRESSION EXPECTED-TEXT
    sed "$1" "$SSHD/ssh_config" >"$BATS_TEST_TMPDIR/config"
    TANDEM_SSH_CONFIG="$BATS_TEST_TMPDIR/config" up
    expect 1
    one_line
    says "$2"
  }
  ssh-keygen -q -t ed25519 -N '' -f "$BATS_TEST_TMPDIR/other"
  trouble "s|IdentityFile.*|IdentityFile $BATS_TEST_TMPDIR/other|" "it refused the login"
  trouble "s|UserKnownHostsFile.*|UserKnownHostsFile /dev/null|" "its host key is not known"
  sed "s|ssh-ed25519 .*|$(cut -d' ' -f1,2 "$BATS_TEST_TMPDIR/other.pub")|" "$SSHD/known_hosts" \
    >"$BATS_TEST_TMPDIR/known"
  trouble "s|UserKnownHostsFile.*|UserKnownHostsFile $BATS_TEST_TMPDIR/known|" "ssh-keygen -R"
  trouble "s|Port .*|Port 1|" "nothing listens on its ssh port"
  trouble "s|HostName .*|HostName no-such-name.invalid|" "no such name"
  trouble "s|Port .*|Prot 1|" "the ssh configuration has an error"
  [ "$before" = "$(picture "$SSHD/home")" ]
}

# bats test_tags=slow
@test "a host that answers nothing is given up" {
  use ssh
  command -v python3 >/dev/null || skip "no python3 to play a silent host"
  python3 -c 'import socket, sys, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print(s.getsockname()[1], flush=True); time.sleep(99)' >"$WORK/port" 3>&- &
  CHILD=$!
  until_true test -s "$WORK/port"
  sed "s|Port .*|Port $(cat "$WORK/port")|" "$SSHD/ssh_config" >"$BATS_TEST_TMPDIR/config"
  TANDEM_SSH_TIMEOUT=1 TANDEM_SSH_CONFIG="$BATS_TEST_TMPDIR/config" up
  expect 1
  one_line
  says "no answer within 1 s"
}

# bats test_tags=slow
@test "--accept-new-host-key trusts a host never seen before, and only then" {
  use ssh
  sed "s|UserKnownHostsFile.*|UserKnownHostsFile $BATS_TEST_TMPDIR/known|" "$SSHD/ssh_config" \
    >"$BATS_TEST_TMPDIR/config"
  export TANDEM_SSH_CONFIG="$BATS_TEST_TMPDIR/config"
  up --kit-only
  expect 1
  [ ! -s "$BATS_TEST_TMPDIR/known" ]
  up --kit-only --accept-new-host-key
  expect 0
  up --kit-only
  expect 0
}

# bats test_tags=slow
@test "a host behind another one (ProxyJump) is reached, and only that one" {
  use ssh
  "$REPOSITORY/tests/sshd.sh" start "$BATS_TEST_TMPDIR/second" --alias behind >/dev/null
  cat "$SSHD/ssh_config" "$BATS_TEST_TMPDIR/second/ssh_config" - >"$BATS_TEST_TMPDIR/config" <<EOF
  ProxyJump gpu-test
EOF
  HOST_NAME=behind TANDEM_SSH_CONFIG="$BATS_TEST_TMPDIR/config" up --kit-only
  "$REPOSITORY/tests/sshd.sh" stop "$BATS_TEST_TMPDIR/second"
  expect 0
  [ -f "$BATS_TEST_TMPDIR/second/home/$TANDEM_REMOTE_DIR/scripts/paths.py" ]
  [ ! -e "$THERE" ]
}

# bats test_tags=slow
@test "files that nobody touched are not read, on either side" {
  use ssh
  up
  expect 0
  printf 'new\n' >"$WORK/data/processed/new.jsonl"
  far_path sh find df dd cat printf stat # no tool for SHA-256: reading would fail
  up --dry-run
  rm "$SSHD/env"
  expect 0
  says "new       1 file" "same"
}

# bats test_tags=slow
@test "a password comes from a private file or a variable, never by a prompt" {
  use ssh
  run "$REPOSITORY/tests/sshd.sh" start "$BATS_TEST_TMPDIR/pw" --alias pw --password 'open it'
  [ "$status" -ne 77 ] || skip "$output"
  HOST_NAME=pw THERE="$BATS_TEST_TMPDIR/pw/home/$TANDEM_REMOTE_DIR"
  chmod 711 "$BATS_TEST_TMPDIR" "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_SUITE_TMPDIR" || true
  export TANDEM_SSH_CONFIG="$BATS_TEST_TMPDIR/pw/ssh_config"
  printf 'open it\n' >"$WORK/word"
  chmod 600 "$WORK/word"
  TANDEM_SSH_PASSWORD_FILE="$WORK/word" up --kit-only
  first="$status $stderr"
  TANDEM_SSH_PASSWORD='open it' up --kit-only
  second="$status $stderr"
  TANDEM_SSH_PASSWORD=wrong up --kit-only
  third="$status $stderr"
  chmod 644 "$WORK/word"
  TANDEM_SSH_PASSWORD_FILE="$WORK/word" up --kit-only
  fourth="$status $stderr"
  "$REPOSITORY/tests/sshd.sh" stop "$BATS_TEST_TMPDIR/pw"
  printf '%s\n' "$first" "$second" "$third" "$fourth"
  [[ "$first" = 0\ * && "$second" = 0\ * ]]
  [[ "$third" = 1\ *"it refused the login"* ]]
  [[ "$fourth" = 2\ *"chmod 600"* ]]
}
