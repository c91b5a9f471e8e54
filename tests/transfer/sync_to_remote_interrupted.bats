#!/usr/bin/env bats
# sync_to_remote.sh: interruptions, lost connections, damage on the way.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

# bats test_tags=slow
@test "Ctrl-C ends it with 130 and says how to go on" {
  use folder
  sample "$WORK/data/processed/big" 4000000
  in_the_middle to
  kill -INT "$CHILD"
  ends_with 130
  grep -q 'interrupted; nothing is lost: run the same command again' "$WORK/stderr"
  [ ! -e "$THERE/data" ]
}

# bats test_tags=slow
@test "SIGTERM ends it with 143 and its rsync with it" {
  use folder
  sample "$WORK/data/processed/big" 4000000
  in_the_middle to
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
  in_the_middle to
  up
  expect 1
  one_line
  says "another sync" "is running"
}

# bats test_tags=slow
@test "a lost connection is taken up again by itself" {
  use ssh
  sample "$WORK/data/processed/big" 1500000
  in_the_middle to
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
  until_true arriving_to
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

# bats test_tags=slow
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
