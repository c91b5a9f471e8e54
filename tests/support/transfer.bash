# Shared by the tests of the transfer room: a small kit of its own, a host of each kind.
# shellcheck shell=bash disable=SC2016,SC2034 # other shells expand; the tests use THERE
#
# Kinds: folder (a folder that stands in for the host), ssh (a real sshd on loopback), openrsync
# (the same with Apple's rsync played on both sides).

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

bats_require_minimum_version 1.5.0

# transfer_setup_file: the sshd that all tests of one file share. SKIP_SSH says why there is none.
transfer_setup_file() {
  export SSHD="$BATS_FILE_TMPDIR/sshd" SKIP_SSH=''
  if ! "$REPOSITORY/tests/sshd.sh" available >"$BATS_FILE_TMPDIR/reason"; then
    SKIP_SSH=$(cat "$BATS_FILE_TMPDIR/reason")
  elif ! "$REPOSITORY/tests/sshd.sh" start "$SSHD" >"$BATS_FILE_TMPDIR/sshd.vars"; then
    return 1
  fi
  printf 'for pid in $(pgrep -P "$(cat %q)"); do kill -9 "$pid" $(pgrep -P "$pid" sshd); done\n' \
    "$SSHD/sshd.pid" >"$SSHD/cut" 2>/dev/null || true
  export SKIP_RSYNC=''
  command -v rsync >/dev/null || SKIP_RSYNC="no rsync here; apt-get install rsync"
}

transfer_teardown_file() { "$REPOSITORY/tests/sshd.sh" stop "$SSHD"; }

# transfer_setup: a kit (a small git checkout), a working folder and a place on the host, all new.
transfer_setup() {
  [ -z "$SKIP_RSYNC" ] || skip "$SKIP_RSYNC"
  local room
  KIT="$BATS_TEST_TMPDIR/kit" WORK="$BATS_TEST_TMPDIR/work"
  export TANDEM_WORKDIR="$WORK" TANDEM_REMOTE_DIR="kit-$BATS_TEST_NUMBER" TANDEM_RETRY_WAIT=0.02
  unset HOST BUCKET REMOTE_DIR TANDEM_HOST DRY_RUN RSYNC TANDEM_SSH_PASSWORD TANDEM_SSH_PASSWORD_FILE
  export PYTHONDONTWRITEBYTECODE=1 # pictures of a folder before and after are compared
  export TANDEM_SSH_CONFIG="$SSHD/ssh_config"
  [ -f "$TANDEM_SSH_CONFIG" ] || unset TANDEM_SSH_CONFIG
  mkdir -p "$KIT/scripts" "$KIT/docs" "$WORK/data/processed" "$WORK/data/synthetic"
  for room in kit checks base_model transfer jobs; do cp -R "$REPOSITORY/scripts/$room" "$KIT/scripts/"; done
  cp "$REPOSITORY/scripts/paths.py" \
    "$REPOSITORY"/scripts/sync_*.sh "$REPOSITORY"/scripts/host_*.sh "$KIT/scripts/"
  find "$KIT" -name __pycache__ -prune -exec rm -rf {} +
  mkdir "$KIT/configs" && cp "$REPOSITORY/configs/paths_config.json" "$KIT/configs/"
  cp "$REPOSITORY/.gitignore" "$KIT/"
  printf 'kit\n' >"$KIT/docs/GUIDE.md"
  for python in "$REPOSITORY/.venv-local" "$REPOSITORY/.venv-remote"; do
    if [ -e "$python" ]; then ln -s "$python" "$KIT/" && break; fi
  done
  git -C "$KIT" init -q && git -C "$KIT" add -A
  printf '{"messages": []}\n' >"$WORK/data/processed/train_sft.jsonl"
  printf '{"rows": 1}\n' >"$WORK/data/processed/manifest.json"
  printf 'made\n' >"$WORK/data/synthetic/made.jsonl"
}

# use KIND: sets HOST_NAME and THERE, the kit's folder on that host.
use() {
  case $1 in
    folder)
      HOST_NAME="$BATS_TEST_TMPDIR/host"
      THERE="$HOST_NAME/$TANDEM_REMOTE_DIR"
      ;;
    ssh | openrsync)
      [ -z "$SKIP_SSH" ] || skip "$SKIP_SSH"
      HOST_NAME=gpu-test
      THERE="$SSHD/home/$TANDEM_REMOTE_DIR"
      ;;
  esac
  if [ "$1" = openrsync ]; then
    export RSYNC="$REPOSITORY/tests/openrsync-shim/rsync"
    printf 'PATH=%s:$PATH\n' "${RSYNC%/*}" >"$SSHD/env"
  else
    rm -f "$SSHD/env"
  fi
}

up() { run --separate-stderr "$KIT/scripts/sync_to_remote.sh" "$HOST_NAME" "$@" </dev/null; }
down() { run --separate-stderr "$KIT/scripts/sync_from_remote.sh" "$HOST_NAME" "$@" </dev/null; }

# shellcheck disable=SC2154 # bats' run sets status, output and stderr
expect() { # CODE: the exit code of the last run
  [ "$status" -eq "$1" ] && return
  printf 'expected exit %s, got %s\nstdout: %s\nstderr: %s\n' "$1" "$status" "$output" "$stderr"
  return 1
}
# shellcheck disable=SC2154
says() { # TEXT…: stdout or stderr holds each
  local text
  for text in "$@"; do
    case $output$'\n'$stderr in
      *"$text"*) ;;
      *)
        printf 'not said: %s\nstdout: %s\nstderr: %s\n' "$text" "$output" "$stderr"
        return 1
        ;;
    esac
  done
}
# shellcheck disable=SC2154
one_line() { # stderr is one line and no traceback
  [ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ] && return
  printf 'more than one line:\n%s\n' "$stderr"
  return 1
}

# picture FOLDER…: every path with its content and times, to compare before and after.
picture() {
  local folder
  for folder in "$@"; do
    if [ -e "$folder" ]; then
      (cd "$folder" && find . -exec ls -dln {} + && find . -type f -exec cksum {} +)
    fi
  done
}

# flip FILE: another byte in it, the same size and modification time.
flip() {
  touch -r "$1" "$BATS_TEST_TMPDIR/stamp"
  local byte=X
  [ "$(dd if="$1" bs=1 count=1 skip=1 2>/dev/null)" != X ] || byte=Y
  printf '%s' "$byte" | dd of="$1" bs=1 seek=1 conv=notrunc 2>/dev/null
  touch -r "$BATS_TEST_TMPDIR/stamp" "$1"
}

# until_true COMMAND…: wait for it, at most 20 s.
until_true() {
  local n
  for ((n = 0; n < 1000; n++)); do
    if "$@"; then return 0; fi
    sleep 0.02
  done
  printf 'never true: %s\n' "$*"
  return 1
}

# far_path TOOL…: until "$SSHD/env" is removed, sessions on the ssh host find only these.
far_path() {
  local tool
  mkdir -p "$BATS_TEST_TMPDIR/bin"
  for tool in "$@"; do
    if command -v "$tool" >/dev/null; then
      ln -sf "$(command -v "$tool")" "$BATS_TEST_TMPDIR/bin/"
    fi
  done
  printf 'PATH=%s\n' "$BATS_TEST_TMPDIR/bin" >"$SSHD/env"
}

# path_without TOOL…: prints a folder for PATH with every tool of this machine but these.
path_without() {
  local folder tool made="$BATS_TEST_TMPDIR/without"
  mkdir -p "$made"
  for folder in /bin /usr/bin /usr/local/bin; do
    [ ! -d "$folder" ] || find "$folder"/ -maxdepth 1 ! -type d -exec ln -sf {} "$made/" \;
  done
  for tool in "$@"; do rm -f "$made/$tool"; done
  printf '%s\n' "$made"
}

# cut_line: end every session of the sshd, as a pulled cable does; also where sshd of an ordinary
# user puts a second process between. It may have none.
cut_line() { sh "$SSHD/cut" || true; }

# slow_rsync: from now on rsync here moves 500 KB a second, so that a test can interfere.
slow_rsync() {
  RSYNC=$(wrapped_rsync 'exec "$real" --bwlimit=500 "$@"')
  export RSYNC
}

# in_the_middle to|from: begin a slow sync as $CHILD and come back when files are arriving.
in_the_middle() {
  slow_rsync
  "$KIT/scripts/sync_$1_remote.sh" "$HOST_NAME" </dev/null >"$WORK/stdout" 2>"$WORK/stderr" 3>&- &
  CHILD=$!
  until_true "arriving_$1"
}

# wrapped_rsync SHELL-TEXT: prints the path of an rsync that runs the text; $real is the real one.
wrapped_rsync() {
  local folder path
  path=${PATH//$REPOSITORY\/tests\/openrsync-shim:/} # the stand-in takes no --bwlimit
  folder=$(mktemp -d "$BATS_TEST_TMPDIR/rsync.XXXXXX")
  printf '#!/usr/bin/env bash\nreal=%q\nif [ "${*: -1}" = --version ]; then exec "$real" "$@"; fi\n%s\n' \
    "$(PATH=$path command -v rsync)" "$1" >"$folder/rsync"
  chmod +x "$folder/rsync"
  printf '%s\n' "$folder/rsync"
}

# ends_with CODE: the background command CHILD ends with it.
ends_with() {
  local code=0
  wait "$CHILD" || code=$?
  [ "$code" -eq "$1" ] || {
    printf 'expected exit %s, got %s\n' "$1" "$code"
    return 1
  }
}

sample() { head -c "$2" /dev/urandom >"$1"; } # FILE BYTES

# end_child: in teardown, so that no background command outlives its test.
end_child() {
  [ -n "${CHILD:-}" ] || return 0
  pkill -9 -P "$CHILD" || true
  kill -9 "$CHILD" 2>/dev/null || true
  wait "$CHILD" 2>/dev/null || true
}

# results: what a host has after a run was trained and registered.
results() {
  local version="$THERE/adapters/mapper/v1.0.0" run="$THERE/adapters/runs/r1"
  mkdir -p "$version" "$run/final" "$run/checkpoints/checkpoint-2" "$THERE/reports"
  printf 'weights\n' >"$version/adapter_model.safetensors"
  printf '{}\n' >"$version/adapter_config.json"
  card
  printf 'weights\n' >"$run/final/adapter_model.safetensors"
  printf '{"r": 16}\n' >"$run/final/adapter_config.json"
  printf '{"state": "completed"}\n' >"$run/status.json"
  printf '{"step": 1}\n' >"$run/metrics.jsonl"
  printf 'state\n' >"$run/checkpoints/checkpoint-2/optimizer.pt"
  printf '{"global_step": 2}\n' >"$run/checkpoints/checkpoint-2/trainer_state.json"
  printf '<p>\n' >"$THERE/reports/report.html"
}
# card: the version's card.json, with the SHA-256 of every other file.
card() {
  local version="$THERE/adapters/mapper/v1.0.0" name list=''
  for name in adapter_model.safetensors adapter_config.json; do
    list="$list${list:+, }\"$name\": {\"sha256\": \"$(openssl dgst -sha256 -r "$version/$name" | cut -c1-64)\"}"
  done
  printf '{"files": {%s}}\n' "$list" >"$version/card.json"
}

# The big file has begun to arrive.
arriving_from() {
  [ -n "$(find "$WORK/adapters/.incoming" -size +100k -name '*adapter_model*' 2>/dev/null)" ]
}

# The big file has begun to arrive.
arriving_to() {
  [ -n "$(find "$THERE/.incoming" -size +100k -name '*big*' 2>/dev/null)" ]
}

# A test file loads this file at its top and may replace any of these.
setup_file() { transfer_setup_file; }
teardown_file() { transfer_teardown_file; }
setup() { transfer_setup; }
teardown() { end_child; }
