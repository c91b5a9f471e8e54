#!/usr/bin/env bats
# sync_to_remote.sh: hosts without rsync, without room, without a login; names and keys.
# shellcheck disable=SC2154,SC2030,SC2031,SC2016 # bats sets status …; each test is a subshell;
# what another shell expands stands in single quotes

load ../support/transfer

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

# bats test_tags=slow
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
  says "-f '$BATS_TEST_TMPDIR/known'"
  sed 's/^/@revoked /' "$SSHD/known_hosts" >"$BATS_TEST_TMPDIR/revoked"
  trouble "s|UserKnownHostsFile.*|UserKnownHostsFile $BATS_TEST_TMPDIR/revoked|" "marked as revoked"
  (umask 077 && echo none >"$BATS_TEST_TMPDIR/no key")
  trouble "s|IdentityFile.*|IdentityFile \"$BATS_TEST_TMPDIR/no key\"|" "cannot use the key $BATS"
  trouble "s|IdentityAgent.*|HostKeyAlgorithms ssh-rsa|" "(HostKeyAlgorithms +ssh-ed25519)"
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
