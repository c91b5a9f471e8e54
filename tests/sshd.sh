#!/usr/bin/env bash
# A real sshd on loopback for the tests: its own keys, its own home folder, a free port.
#
#   tests/sshd.sh available                  exit 0, or 77 with the reason to skip on stdout
#   tests/sshd.sh start DIR [--alias NAME] [--password WORD | --code WORD] [--address 127.0.0.1]
#   tests/sshd.sh stop DIR                   ends it and every session it served
#
# start prints NAME=value lines (SSHD_ALIAS, SSHD_CONFIG, SSHD_HOME, SSHD_PORT, SSHD_PID) and
# leaves in DIR:
#   ssh_config    a Host block for the alias (default: gpu-test): ssh -F DIR/ssh_config gpu-test
#   known_hosts   the host's key, so that StrictHostKeyChecking yes accepts it
#   id_ed25519    the key that logs in; with --password there is none, the password alone does;
#                 with --code a login wants the key and then, by PAM, this word (as with MFA)
#   home/         what a session sees as its home folder and where it begins
#   env           optional, yours: shell lines that each session reads first (PATH=… hides a tool)
#   sshd.log      the server's log
#
# One DIR is one server; any number may run at once. The login is the user who runs this, so no
# system account is touched; --password and --code need root, for an account that stop removes.
# Exit codes: 0 good, 1 it did not start, 2 called wrongly, 77 cannot run here (reason on stdout).
set -euo pipefail

usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }
misused() {
  printf 'sshd.sh: %s; see tests/sshd.sh --help\n' "$*" >&2
  exit 2
}
skip() {
  printf '%s\n' "$*"
  exit 77
}

sshd_path() {
  local candidate
  for candidate in "$(command -v sshd || true)" /usr/sbin/sshd /usr/local/sbin/sshd; do
    if [ -x "$candidate" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# available PASSWORD CODE: end with 77 and the reason unless such a server can run here.
available() {
  [ -z "$2" ] || [ -f /etc/pam.d/sshd ] || skip "no PAM for sshd here (/etc/pam.d/sshd)"
  [ -n "$(sshd_path)" ] || skip "no sshd here; apt-get install openssh-server"
  local tool
  for tool in ssh ssh-keygen; do
    command -v "$tool" >/dev/null 2>&1 || skip "no $tool here; apt-get install openssh-client"
  done
  if [ -n "$1" ]; then
    [ "$(id -u)" = 0 ] || skip "a password login needs an account of its own, and that needs root"
    command -v useradd >/dev/null 2>&1 || skip "no useradd here to make an account with a password"
  fi
}

write_keys() { # DIR PASSWORD CODE
  ssh-keygen -q -t ed25519 -N '' -C '' -f "$1/host_key"
  [ -n "$2" ] && [ -z "$3" ] || ssh-keygen -q -t ed25519 -N '' -C '' -f "$1/id_ed25519"
}

add_account() { # DIR PASSWORD: prints the account's name
  local name
  name=tandem$$
  useradd --home-dir "$1/home" --no-create-home --shell /bin/bash \
    --password "$(openssl passwd -6 "$2")" "$name" >&2
  chown -R "$name" "$1/home"
  chmod 755 "$1"
  printf '%s\n' "$name" >"$1/account"
  printf '%s\n' "$name"
}

# Every session begins in DIR/home with HOME set to it, whatever account it runs under. sshd sets it
# too: the account's shell would read the account's own start files before the session.
write_session() { # DIR
  cat >"$1/session" <<EOF
#!/bin/sh
HOME='$1/home'
export HOME
cd "\$HOME" || exit 1
if [ -f '$1/env' ]; then . '$1/env'; fi
if [ -n "\$SSH_ORIGINAL_COMMAND" ]; then exec /bin/sh -c "\$SSH_ORIGINAL_COMMAND"; fi
exec /bin/sh -i
EOF
  chmod 755 "$1/session"
}

sftp_server() {
  local candidate
  for candidate in /usr/lib/openssh/sftp-server /usr/libexec/sftp-server \
    /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server; do
    if [ -x "$candidate" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  printf 'internal-sftp\n'
}

write_config() { # DIR PORT PASSWORD ADDRESS CODE
  local password=no code=no methods=any
  [ -z "$3" ] || password=yes
  [ -z "$5" ] || { password=no code=yes methods=publickey,keyboard-interactive; }
  cat >"$1/sshd_config" <<EOF
Port $2
ListenAddress $4
HostKey $1/host_key
PidFile $1/sshd.pid
AuthorizedKeysFile $1/authorized_keys
PasswordAuthentication $password
KbdInteractiveAuthentication $code
AuthenticationMethods $methods
PermitRootLogin yes
StrictModes no
UsePAM $code
UseDNS no
MaxStartups 100:30:200
ForceCommand $1/session
SetEnv HOME=$1/home
Subsystem sftp $(sftp_server)
EOF
}

# launch DIR PASSWORD ADDRESS CODE: try free-looking ports until the server listens; prints the port.
launch() {
  local try port waited
  for try in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + (RANDOM + try) % 20000))
    write_config "$1" "$port" "$2" "$3" "$4"
    : >"$1/sshd.log"
    "$(sshd_path)" -f "$1/sshd_config" -E "$1/sshd.log"
    for ((waited = 0; waited < 200; waited++)); do
      if [ -s "$1/sshd.pid" ]; then
        printf '%s\n' "$port"
        return
      fi
      if grep -q 'Cannot bind\|error:\|fatal:' "$1/sshd.log"; then break; fi
      sleep 0.02
    done
  done
  printf 'sshd.sh: the server did not start; its log:\n' >&2
  cat "$1/sshd.log" >&2
  return 1
}

write_client() { # DIR ALIAS PORT USER ADDRESS
  local key=none
  [ ! -f "$1/id_ed25519" ] || key=$1/id_ed25519
  printf '[%s]:%s %s\n' "$5" "$3" "$(cut -d' ' -f1,2 "$1/host_key.pub")" >"$1/known_hosts"
  cat >"$1/ssh_config" <<EOF
Host $2
  HostName $5
  Port $3
  User $4
  IdentityFile $key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $1/known_hosts
  GlobalKnownHostsFile /dev/null
EOF
}

start() {
  local dir='' alias=gpu-test password='' code='' address=127.0.0.1 user port
  while [ $# -gt 0 ]; do
    case $1 in
      --alias | --password | --code | --address)
        [ $# -gt 1 ] || misused "$1 needs a value"
        case $1 in
          --alias) alias=$2 ;;
          --address) address=$2 ;;
          --code) password=$2 code=$2 ;;
          *) password=$2 ;;
        esac
        shift
        ;;
      -*) misused "unknown option $1" ;;
      *) dir=$1 ;;
    esac
    shift
  done
  [ -n "$dir" ] || misused "start needs a folder"
  available "$password" "$code"
  mkdir -p "$dir/home"
  dir=$(cd "$dir" && pwd -P)
  [ ! -e "$dir/sshd.pid" ] || misused "a server already runs in $dir"
  if [ "$(id -u)" = 0 ]; then mkdir -p /run/sshd; fi
  write_keys "$dir" "$password" "$code"
  if [ -f "$dir/id_ed25519.pub" ]; then cp "$dir/id_ed25519.pub" "$dir/authorized_keys"; fi
  write_session "$dir"
  user=$(id -un)
  if [ -n "$password" ]; then user=$(add_account "$dir" "$password"); fi
  port=$(launch "$dir" "$password" "$address" "$code")
  write_client "$dir" "$alias" "$port" "$user" "$address"
  printf 'SSHD_ALIAS=%s\nSSHD_CONFIG=%s\nSSHD_HOME=%s\nSSHD_PORT=%s\nSSHD_PID=%s\n' \
    "$alias" "$dir/ssh_config" "$dir/home" "$port" "$(cat "$dir/sshd.pid")"
}

end_tree() { # PID: the process and all below it, sessions stopped with SIGSTOP too
  local child
  for child in $(pgrep -P "$1" || true); do end_tree "$child"; done
  kill "$1" 2>/dev/null || true
  kill -CONT "$1" 2>/dev/null || true
}

stop() {
  [ $# -eq 1 ] || misused "stop needs a folder"
  if [ -s "$1/sshd.pid" ]; then
    end_tree "$(cat "$1/sshd.pid")"
    rm -f "$1/sshd.pid"
  fi
  if [ -s "$1/account" ]; then
    userdel "$(cat "$1/account")" 2>/dev/null || userdel -f "$(cat "$1/account")"
    rm -f "$1/account"
  fi
}

case ${1:-} in
  -h | --help) usage ;;
  available) available '' '' ;;
  start | stop) "$@" ;;
  *) misused "say available, start or stop" ;;
esac
