#!/usr/bin/env bats
# host_run.sh, host_watch.sh and host_probe.sh over a folder and a real sshd.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

setup() {
  transfer_setup
  export TANDEM_WATCH_SECONDS=0.05
  JOB="job-$BATS_TEST_NUMBER-$$"
}
teardown() {
  end_child
  tmux kill-session -t "tandem-$JOB" 2>/dev/null || true
}

for kind in folder ssh; do
  tag=(--tags slow)
  if [ "$kind" = folder ]; then tag=(--tags fast); fi
  bats_test_function "${tag[@]}" --description "$kind: a command runs in the kit there, words and exit code kept" \
    -- runs "$kind"
  bats_test_function "${tag[@]}" --description "$kind: Ctrl-C here ends the command there" -- interrupts "$kind"
  bats_test_function --tags slow --description "$kind: a detached job runs on and is watched to its end" \
    -- detaches "$kind"
  bats_test_function --tags slow --description "$kind: a job that was killed there is over, and that is said" \
    -- killed_there "$kind"
  bats_test_function "${tag[@]}" --description "$kind: any exit code is the command's own" -- own_code "$kind"
  bats_test_function "${tag[@]}" --description "$kind: watch follows a training run by its status and log" \
    -- watches_run "$kind"
done

there() { use "$1" && mkdir -p "$THERE"; }
run_there() { run --separate-stderr "$KIT/scripts/host_run.sh" "$HOST_NAME" "$@" </dev/null; }
watch() { run --separate-stderr "$KIT/scripts/host_watch.sh" "$HOST_NAME" "$@" </dev/null; }

runs() {
  there "$1"
  run_there -- sh -c 'pwd; printf "<%s>" "$@"; echo oops >&2; exit 7' sh 'a  b' '$(x)' "it's" '*'
  expect 7
  [ "$output" = "$THERE"$'\n'"<a  b><\$(x)><it's><*>" ]
  says oops
}

own_code() {
  there "$1"
  for code in 96 97 98 255; do
    run_there -- sh -c "exit $code"
    expect "$code"
    [ -z "$output$stderr" ]
  done
  [ -z "$(ls -A "$THERE/.jobs")" ]
}

# bats test_tags=slow
@test "a connection lost under a command is told from the command's own 255" {
  there ssh
  "$KIT/scripts/host_run.sh" "$HOST_NAME" -- sh -c ': >began; exec sleep 300' \
    </dev/null >/dev/null 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true test -e "$THERE/began"
  cut_line
  ends_with 1
  grep -q 'the connection failed or was lost' "$WORK/stderr"
}

@test "folder: variables of the command here do not leak into the command there" {
  there folder
  HOST=x DRY_RUN=1 MAKEFLAGS=w run_there -- sh -c 'echo "<$TANDEM_WORKDIR$HOST$DRY_RUN$MAKEFLAGS>"'
  expect 0
  [ "$output" = "<>" ]
}

interrupts() {
  there "$1"
  "$KIT/scripts/host_run.sh" "$HOST_NAME" -- sh -c 'echo $$ >pid; exec sleep 300' </dev/null 3>&- &
  CHILD=$!
  until_true test -s "$THERE/pid"
  kill -INT "$CHILD"
  ends_with 130
  until_true gone "$(cat "$THERE/pid")"
}
gone() { ! kill -0 "$1" 2>/dev/null; }

detaches() {
  there "$1"
  run_there --detach "$JOB" -- sh -c 'echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 3'
  expect 0
  says "$JOB runs on" "scripts/host_watch.sh $HOST_NAME $JOB"
  until_true grep -q one "$THERE/.jobs/$JOB/log.txt"
  run_there --detach "$JOB" -- true
  expect 1
  says "is running already"
  watch "$JOB" --once
  expect 0
  says "$JOB  running"
  touch "$THERE/go"
  watch "$JOB"
  expect 1
  [ "$output" = $'one\ntwo' ]
  says "ended with 3"
}

killed_there() {
  there "$1"
  run_there --detach "$JOB" -- sh -c 'echo up; exec sleep 300'
  expect 0
  until_true grep -q up "$THERE/.jobs/$JOB/log.txt"
  leader=$(cat "$THERE/.jobs/$JOB/pid")
  pids="$leader $(below "$leader")"
  # shellcheck disable=SC2086
  kill -9 $pids
  watch "$JOB" --once
  expect 1
  says "$JOB  was killed there" "log.txt, then start it again"
  watch "$JOB"
  expect 1
  one_line
  [ "$output" = up ]
  says "$JOB was killed there"
  echo $$ >"$THERE/.jobs/$JOB/pid" # the pid is another's by now
  watch "$JOB"
  expect 1
  run_there --detach "$JOB" -- true
  expect 0
  watch "$JOB"
  expect 0
}
below() { # PID: every process below it
  local child
  for child in $(pgrep -P "$1"); do
    printf '%s ' "$child"
    below "$child"
  done
}

watches_run() {
  there "$1"
  run="$THERE/adapters/runs/20261121-081530-3f2a"
  mkdir -p "$run"
  printf 'line\n' >"$run/log.txt"
  printf '{"state": "running", "step": 3, "max_steps": 9, "loss": 1.23456, "heartbeat": 1}\n' \
    >"$run/status.json"
  HOST="$HOST_NAME" run --separate-stderr "$KIT/scripts/host_watch.sh" --once
  expect 0
  says "20261121-081530-3f2a  running  step 3/9  loss 1.235  no heartbeat for"
  printf '{"state": "completed", "step": 9}\n' >"$run/status.json"
  watch 20261121-081530-3f2a
  expect 0
  [ "$output" = line ]
  printf '{"state": "failed", "step": 9}\n' >"$run/status.json"
  watch 20261121-081530-3f2a
  expect 1
}

@test "--help of each prints how to use it" {
  for name in run watch probe; do
    run -0 "$KIT/scripts/host_$name.sh" --help
    says "Exit codes" "scripts/host_$name.sh [HOST]"
    run -0 "$KIT/scripts/host_$name.sh" gpu1 --help
    says "Exit codes"
  done
}

@test "--help after -- is the command's" {
  there folder
  run_there -- echo --help
  expect 0
  [ "$output" = --help ]
}

# bats test_tags=slow
@test "called wrongly: one line and exit 2" {
  use folder
  for words in '' '--' '--detach a/b -- true' '--detach -x -- true'; do
    # shellcheck disable=SC2086
    run_there $words
    expect 2
    one_line
  done
  watch 'no;such'
  expect 2
  mkdir -p "$THERE"
  watch nothing
  expect 2
  one_line
  says "no job or run nothing"
  HOST_NAME='a b'
  for script in run watch probe; do
    run --separate-stderr "$KIT/scripts/host_$script.sh" "$HOST_NAME" -- true
    expect 2
    one_line
  done
}

@test "without a kit there: exit 1 and the remedy" {
  use folder
  run_there -- true
  expect 1
  one_line
  says "does not exist" "make sync-up"
  run_there --detach "$JOB" -- true
  expect 1
  says "does not exist"
}

# bats test_tags=slow
@test "a detached job has the variables of its session, not those of an old tmux server" {
  there ssh
  command -v tmux >/dev/null || skip "no tmux here; apt-get install tmux"
  mkdir "$BATS_TEST_TMPDIR/tmux"
  OLD=there-before TMUX_TMPDIR="$BATS_TEST_TMPDIR/tmux" tmux new-session -d -s old 'sleep 60'
  printf 'TMUX_TMPDIR=%s NEW="a b"; export TMUX_TMPDIR NEW\n' "$BATS_TEST_TMPDIR/tmux" >"$SSHD/env"
  run_there --detach "$JOB" -- sh -c 'echo "<$NEW> <$OLD>"'
  first=$status
  watch "$JOB"
  TMUX_TMPDIR="$BATS_TEST_TMPDIR/tmux" tmux kill-server
  rm "$SSHD/env"
  [ "$first" -eq 0 ]
  [ "$output" = "<a b> <>" ]
  [ -z "$(ls "$THERE/.jobs/$JOB/" | grep environment)" ]
}

@test "a job that does not start is not reported as started" {
  there folder
  mkdir -p "$THERE/.jobs/$JOB/pid" # a folder where its pid has to be
  run_there --detach "$JOB" -- true
  expect 1
  case $output in *"runs on"*) return 1 ;; esac
}

# bats test_tags=slow
@test "a detached job outlives the connection, without tmux too" {
  there ssh
  far_path sh dd mkdir rm cat nohup sleep tee mv date tail tr ls head kill env wc
  run_there --detach "$JOB" -- sh -c 'while [ ! -e go ]; do sleep 0.05; done; echo done'
  rm "$SSHD/env"
  expect 0
  says "(nohup)"
  cut_line
  touch "$THERE/go"
  watch "$JOB"
  expect 0
  [ "$output" = "done" ]
}

# bats test_tags=slow
@test "watch goes on after a lost connection and repeats nothing" {
  there ssh
  run="$THERE/adapters/runs/r1"
  mkdir -p "$run"
  printf 'one\n' >"$run/log.txt"
  printf '{"state": "running"}\n' >"$run/status.json"
  "$KIT/scripts/host_watch.sh" "$HOST_NAME" r1 </dev/null >"$WORK/out" 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true grep -q one "$WORK/out"
  until_true lost
  printf 'two\n' >>"$run/log.txt"
  printf '{"state": "completed"}\n' >"$run/status.json"
  ends_with 0
  [ "$(cat "$WORK/out")" = $'one\ntwo' ]
}
lost() {
  cut_line
  grep -q 'the run there goes on; again in' "$WORK/stderr"
}

# bats test_tags=slow
@test "probe reports what a sync needs, as a table and as one JSON object" {
  there ssh
  run --separate-stderr "$KIT/scripts/host_probe.sh" "$HOST_NAME"
  expect 0
  says "ok    rsync" "SHA-256" "free at gpu-test:"
  run -0 --separate-stderr "$KIT/scripts/host_probe.sh" "$HOST_NAME" --json
  printf '%s' "$output" | python3 -c 'import json, sys; print(json.load(sys.stdin)["facts"]["rsync"])'
}

# bats test_tags=slow
@test "probe warns where rsync is missing, and fails where tar is missing too" {
  there ssh
  far_path sh dd df uname openssl head tr tar mktemp rm
  run --separate-stderr "$KIT/scripts/host_probe.sh" "$HOST_NAME"
  expect 0
  says "warn  rsync" "files go by tar, slower"
  rm "$BATS_TEST_TMPDIR/bin/tar"
  run --separate-stderr "$KIT/scripts/host_probe.sh" "$HOST_NAME"
  rm "$SSHD/env"
  expect 1
  says "FAIL  rsync" "apt-get install -y rsync"
}
