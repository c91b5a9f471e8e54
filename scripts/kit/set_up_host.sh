# Sourced by setup_remote.sh: from the laptop, push the kit to a host and set it up there.
# HOST is an ssh name, or a folder (/, ./ or ../) that stands in for one.
# shellcheck shell=bash disable=SC2034

# choose_host: HOST from the argument or variable, else from the configuration.
choose_host() {
  local name='[A-Za-z0-9_][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?'
  REMOTE_DIR=${REMOTE_DIR:-${TANDEM_REMOTE_DIR:-}}
  if [ -z "$HOST" ]; then host_from_config; fi
  case $HOST in
    '') return 0 ;;
    *$'\n'*) usage_error "HOST has a line break in it; give an ssh name or a folder" ;;
    /* | ./* | ../*) ;;
    *)
      [[ $HOST =~ ^$name$ ]] || usage_error "HOST '$HOST' is neither an ssh name (gpu1," \
        "me@10.0.0.7) nor a folder (beginning with /, ./ or ../)"
      ;;
  esac
  if [ -z "$REMOTE_DIR" ]; then
    REMOTE_DIR=$("$(any_python)" "$KIT_ROOT/scripts/paths.py" remote_dir)
  fi
  case $REMOTE_DIR in
    -* | *..* | *[!A-Za-z0-9._/+=@~-]*)
      usage_error "REMOTE_DIR '$REMOTE_DIR' may hold letters, digits and . _ / + = @ ~ - only"
      ;;
  esac
}

# host_from_config: the file's host, unless this is that host: it has an NVIDIA driver.
host_from_config() {
  local config=$KIT_ROOT/configs/paths_config.json
  if [ -z "${TANDEM_HOST:-}" ] && ! grep -q '"host": *"[^"]' "$config"; then return 0; fi
  HOST=$("$(any_python)" "$KIT_ROOT/scripts/paths.py" host)
  if [ -n "$HOST" ] && [ -z "${TANDEM_HOST:-}" ] && command -v nvidia-smi >/dev/null 2>&1; then
    note "this machine has an NVIDIA driver: setting it up, not $HOST (HOST=$HOST goes there)"
    HOST=''
  fi
}

# set_up_host: push the kit, run this script there, and end with its exit code.
set_up_host() {
  local code=0
  say "Pushing the kit to $HOST"
  REMOTE_DIR=$REMOTE_DIR "$KIT_ROOT/scripts/sync_to_remote.sh" --kit-only "$HOST"
  say "Setting up $HOST"
  case $HOST in
    /* | ./* | ../*) set_up_folder || code=$? ;;
    *) set_up_over_ssh || code=$? ;;
  esac
  return "$code"
}

set_up_folder() {
  (
    cd "$HOST/$REMOTE_DIR" || exit 1
    unset HOST REMOTE_DIR TANDEM_HOST TANDEM_REMOTE_DIR TANDEM_WORKDIR
    exec ./setup_remote.sh --here ${PASSED[@]+"${PASSED[@]}"}
  )
}

# set_up_over_ssh: every word of the command is from a fixed list or matched one above, because
# the far side's shell reads it again.
set_up_over_ssh() {
  local words code=0
  words="cd $REMOTE_DIR && exec env"
  case ${TANDEM_PYTHON:-} in
    '') ;;
    *[!A-Za-z0-9._/+-]*) usage_error "TANDEM_PYTHON '$TANDEM_PYTHON' cannot be passed to a host" ;;
    *) words="$words TANDEM_PYTHON=$TANDEM_PYTHON" ;;
  esac
  words="$words ./setup_remote.sh --here ${PASSED[*]-}"
  ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=4 \
    -o StrictHostKeyChecking=yes "$HOST" "bash -c '$words'" </dev/null || code=$?
  if [ "$code" -eq 255 ]; then
    die "ssh to $HOST failed, see its line above; try: ssh $HOST true"
  fi
  return "$code"
}
