#!/usr/bin/env bats
# A host that lies, on a real sshd: its find, its rsync, its hashes, its shell, its files. Every
# command that talks to a host ends by itself with one line, and writes nowhere but where it should.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

setup() {
  transfer_setup
  use ssh
  export TANDEM_SILENCE=2 TANDEM_WATCH_SECONDS=0.05
  BIN="$BATS_TEST_TMPDIR/lies"
  mkdir -p "$BIN" "$THERE/adapters/mapper/v1.0.0" "$THERE/adapters/runs/r1/final" "$THERE/reports"
  printf 'w\n' >"$THERE/adapters/mapper/v1.0.0/adapter_model.safetensors"
  printf 'w\n' | tee "$THERE/adapters/runs/r1/final/adapter_model.safetensors" \
    "$THERE/adapters/runs/r1/final/adapter_config.json" >"$THERE/reports/report.html"
  printf '{"state": "running"}\n' >"$THERE/adapters/runs/r1/status.json"
  printf 'mine\n' >"$BATS_TEST_TMPDIR/thesis.tex"
  printf 'PATH=%s:$PATH; export PATH\n' "$BIN" >"$SSHD/env"
}
teardown() {
  end_child
  rm -f "$SSHD/env"
}

# lie TOOL SHELL-TEXT: from now on TOOL on the host is this; $real is the true one.
lie() {
  printf '#!/bin/bash\nreal=%q\n%s\n' "$(command -v "$1")" "$2" >"$BIN/$1"
  chmod +x "$BIN/$1"
}

# ends_well: the last command ended with a code of the contract, one line at the end, no traceback.
ends_well() {
  case $status in 0 | 1 | 2) ;; *) echo "exit $status" && return 1 ;; esac
  case $output$stderr in *Traceback*) printf '%s\n' "$stderr" && return 1 ;; esac
  if [ "$status" -ne 0 ]; then
    case $(printf '%s\n' "$stderr" | tail -n 1) in
      *_remote.sh:* | host_*.sh:*) ;;
      *) printf 'no last line: %s\n' "$stderr" && return 1 ;;
    esac
  fi
  [ "$(cat "$BATS_TEST_TMPDIR/thesis.tex")" = mine ]
  [ -z "$(find "$BATS_TEST_TMPDIR" -name '*planted*' ! -path "$BIN/*" ! -path '*/adapters/*' ! -path '*/reports/*')" ]
}
# bounded COMMAND…: run it; ended by force after a minute, which no command may need.
bounded() {
  run --separate-stderr perl -e 'alarm 60; exec @ARGV' "$@" </dev/null
  ends_well
}
every_command() {
  bounded "$KIT/scripts/sync_to_remote.sh" gpu-test
  bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
  bounded "$KIT/scripts/host_probe.sh" gpu-test
  bounded "$KIT/scripts/host_watch.sh" gpu-test r1 --once
  bounded "$KIT/scripts/host_run.sh" gpu-test --detach "lie-$BATS_TEST_NUMBER" -- true
}

nothing_came() { [ ! -e "$WORK/adapters/mapper" ] && [ ! -e "$WORK/adapters/runs/r1/final" ]; }

# bats test_tags=slow
@test "find prints garbage, nothing, without end, or waits for ever" {
  for text in 'head -c 5000 /dev/urandom' 'exit 0' 'echo oops >&2; exit 3' 'exec sleep 600' \
    'yes "644 1 5 1.0 1.0 reports/planted" | head -c 80000000' \
    'yes oops | head -c 80000000 >&2' 'kill -9 $PPID'; do
    lie find "$text"
    bounded "$KIT/scripts/sync_to_remote.sh" gpu-test --kit-only
    bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
    nothing_came
  done
}

# bats test_tags=slow
@test "find lists paths outside, folders as files, odd types and enormous files" {
  for record in '644 7 5 1.0 1.0 adapters/../../planted' '644 7 5 1.0 1.0 /tmp/planted' \
    '644 7 5 1.0 1.0 adapters/../../thesis.tex' '644 7 5 1.0 1.0 adapters/runs' \
    '644 7 5 1.0 1.0 reports' '644 7 99999999999999999 1.0 1.0 reports/planted' \
    '644 7 5 1.0 1.0 reports/planted' '644 7 -1 1.0 1.0 reports/planted' \
    '644 x y z 1.0 reports/planted' '644 7 5 1.0 1.0 adapters/runs/../planted/final/x'; do
    lie find "\"\$real\" \"\$@\"; case \"\$*\" in *adapters\\ reports*) printf '%s\\0' '$record';; esac"
    bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
    rm -rf "$WORK/adapters" "$WORK/reports"
  done
}

# bats test_tags=slow
@test "its hashes are other ones, or none: nothing is published" {
  for tool in openssl sha256sum shasum; do
    lie "$tool" 'case $* in "dgst -sha256 -r") exec "$real" "$@" ;; esac
      for file; do printf "%064d *%s\n" 0 "$file"; done'
  done
  bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
  expect 1
  nothing_came
  bounded "$KIT/scripts/sync_to_remote.sh" gpu-test
  expect 1
  [ ! -e "$THERE/data/processed/train_sft.jsonl" ]
  for tool in openssl sha256sum shasum; do lie "$tool" 'exit 1'; done
  bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
  expect 1
  nothing_came
}

# bats test_tags=slow
@test "its rsync serves other files, links, or nothing; it ends by itself" {
  mkdir -p "$SSHD/home/evil/reports" "$SSHD/home/evil/runs/r1/final"
  ln -sf /etc/passwd "$SSHD/home/evil/report.html"
  ln -sf / "$SSHD/home/evil/mapper"
  printf 'x\n' >"$SSHD/home/evil/planted"
  for text in 'case " $* " in *" --sender "*) set -- "${@:1:$#-1}" "$HOME/evil/";; esac; exec "$real" "$@"' \
    'head -c 100000 /dev/urandom' 'exit 0' 'exit 23'; do
    lie rsync "$text"
    bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
    nothing_came
    [ -z "$(find "$WORK/adapters" "$WORK/reports" -type l 2>/dev/null)" ]
  done
}

# bats test_tags=slow
@test "its shell runs nothing, prints garbage, prints without end or waits for ever" {
  for text in 'exit 0' 'exit 255' 'echo Welcome; exit 0' 'head -c 3000 /dev/urandom' 'yes Welcome' \
    'yes >&2' 'exec sleep 600' 'echo; echo; "$real" "$@"; echo bye' 'kill -9 $$'; do
    lie sh "$text"
    every_command
    case $output in *' runs on '*) case $text in *real*) ;; *) echo "no job started" && return 1 ;; esac ;; esac
  done
}

# bats test_tags=slow
@test "its status, log and pid are odd: watch and --detach say one line" {
  run_folder="$THERE/adapters/runs/r1"
  printf 'line\n\033[2Jx\n' >"$run_folder/log.txt"
  for status_json in '' '[]' 'null' '{"state": 7}' '{"state": "running", "heartbeat": "x", "step": []}' \
    '{"state": "\u001b[2J", "loss": 1e999}' "$(printf '[%.0s' $(seq 2000))" \
    '{"state": "running", "step": 1e300, "heartbeat": -1e300}'; do
    printf '%s' "$status_json" >"$run_folder/status.json"
    bounded "$KIT/scripts/host_watch.sh" gpu-test r1 --once
    case $output$stderr in *$'\033'*) echo "a control sequence" && return 1 ;; esac
  done
  for text in 'echo /etc/passwd/status.json' 'echo adapters/runs/../../x/status.json' 'yes'; do
    lie ls "$text"
    HOST=gpu-test bounded "$KIT/scripts/host_watch.sh" --once
  done
  lie cat 'case $* in */pid) echo "1; rm -rf /";; *) exec "$real" "$@";; esac'
  bounded "$KIT/scripts/host_run.sh" gpu-test --detach odd -- true
  [ "$status" -ne 0 ]
}

# bats test_tags=slow
@test "files larger than they were listed, by each carrier: named, cut off, not published" {
  head -c 3000000 /dev/zero | tee "$THERE/adapters/mapper/v1.0.0/adapter_model.safetensors" \
    "$THERE/reports/report.html" >"$THERE/adapters/runs/r1/final/adapter_model.safetensors"
  for welcome in '' 'echo Welcome'; do # with a banner tar is the carrier
    printf 'PATH=%s:$PATH; export PATH\n%s\n' "$BIN" "$welcome" >"$SSHD/env"
    lie find '"$real" "$@" | perl -0pe "s/^([0-7]+ \d+) \d+ /\$1 2 /"'
    TANDEM_SILENCE=30 bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
    expect 1
    says "larger there than it was listed (adapter_model.safetensors)" "not taken"
    nothing_came
    [ -z "$(find "$WORK" -size +10k ! -path '*/.cache/*')" ]
  done
}

gone() { ! pgrep -f "$1" >/dev/null; }
# left_the_host: the sshd serves no session any more, so that our ssh has ended too.
left_the_host() { [ -z "$(pgrep -P "$(cat "$SSHD/sshd.pid")")" ]; }

# bats test_tags=slow
@test "an answer without end or without a word: no process of ours is left, and what writes there ends" {
  mark="endless-$$-$RANDOM"
  for text in "exec yes $mark" "yes $mark" "trap '' HUP; perl -e 'print q($mark) x 9999 while 1'"; do
    lie find "case \$* in *maxdepth*) exec \"\$real\" \"\$@\" ;; esac; : $mark; $text"
    bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
    expect 1
    until_true gone "$mark"
    until_true gone "$BIN/find"
    until_true left_the_host
  done
  lie find "exec tail -f /dev/null $mark" # what writes nothing is the host's own affair
  bounded "$KIT/scripts/sync_from_remote.sh" gpu-test
  expect 1
  says "no answer within 2 s"
  until_true left_the_host
  pkill -f "tail -f /dev/null $mark" || true # a busy host may not have come so far
}
