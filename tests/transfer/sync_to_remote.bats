#!/usr/bin/env bats
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

for kind in folder ssh openrsync; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function "${tag[@]}" --description "$kind: the kit, its configs and the data arrive" -- arrives "$kind"
  bats_test_function --tags slow --description "$kind: the second sync sends nothing and starts no rsync" \
    -- again "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a changed file is replaced, the others stay untouched" \
    -- changes "$kind"
  bats_test_function --tags slow --description "$kind: any file name travels as it is" -- any_name "$kind"
done
for kind in folder ssh; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function --tags slow --description "$kind: a flipped byte with the same size and time is mended" \
    -- mends "$kind"
  bats_test_function "${tag[@]}" --description "$kind: secrets, git, environments, models, raw data stay here" \
    -- stays "$kind"
  bats_test_function "${tag[@]}" --description "$kind: a dry run changes nothing on either side" -- plans "$kind"
  bats_test_function --tags slow --description "$kind: a file edited there is kept in .replaced" -- keeps "$kind"
  bats_test_function --tags slow --description "$kind: killed with SIGKILL, the next sync finishes it" \
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
  run find "$THERE" \( -name '.env*' -o -name '*.pem' -o -name '*hf_token*' -o -name 'id_*' \
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
  in_the_middle to
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

# bats test_tags=slow
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
