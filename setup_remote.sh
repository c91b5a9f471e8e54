#!/usr/bin/env bash
# Set up the training environment (.venv-remote): here, or on HOST from the laptop. Checks the
# NVIDIA driver and never installs one. Safe to run again: with nothing to do it ends at once.
#
#   ./setup_remote.sh               this machine; or the host named in configs/paths_config.json
#   ./setup_remote.sh gpu1          push the kit to an ssh host and run this there
#   ./setup_remote.sh ./folder      a folder that stands in for a host
#   ./setup_remote.sh --serve       vLLM's environment (.venv-serve) instead, Linux x86-64 alone
#
#   --here                 this machine, whatever the configuration names
#   --allow-cpu            go on without an NVIDIA GPU: to rehearse, or to serve on a laptop
#   --backend conda|venv   default: conda, mamba or micromamba where found, else venv
#   --check                only report: GPU, disk, every file, every import, one NF4 forward
#                          (with --serve: vLLM's options and kernels instead of the forward)
#   --force                build the environment anew, whatever is there
#
# HOST=gpu1 REMOTE_DIR=tandem ./setup_remote.sh   the same by variables
# TANDEM_PYTHON=3.12 ./setup_remote.sh            another Python, 3.10 to 3.13; it stays the choice
#
# Exit codes: 0 good, 1 a check or the work failed, 2 called wrongly, 130/143 interrupted.
set -euo pipefail

# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/scripts/kit/common.sh"
# shellcheck source=scripts/setup/environment.sh
. "$KIT_ROOT/scripts/setup/environment.sh"
# shellcheck source=scripts/setup/conda.sh
. "$KIT_ROOT/scripts/setup/conda.sh"

MODE=install FORCE=no FAILED=no BACKEND=auto ALLOW_CPU=no HERE=no NAMED=no ENV_NAME=remote
HOST=${HOST:-} PASSED=()
while [ $# -gt 0 ]; do
  case $1 in
    --check) MODE=check PASSED+=("$1") ;;
    --force) FORCE=yes PASSED+=("$1") ;;
    --allow-cpu) ALLOW_CPU=yes PASSED+=("$1") ;;
    --serve) ENV_NAME=serve PASSED+=("$1") ;;
    --here) HERE=yes ;;
    --backend=*) BACKEND=${1#*=} ;;
    --backend)
      [ $# -ge 2 ] || usage_error "--backend needs conda or venv"
      BACKEND=$2
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) usage_error "unknown option '$1'; see ./$PROGRAM --help" ;;
    *)
      [ "$NAMED" = no ] || usage_error "two hosts, '$HOST' and '$1'; one at a time"
      HOST=$1 NAMED=yes
      ;;
  esac
  shift
done
case $BACKEND in
  auto) ;;
  conda | venv) PASSED+=(--backend "$BACKEND") ;;
  *) usage_error "--backend '$BACKEND'; it is conda or venv" ;;
esac

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

# host_variable: the variable HOST, unless another program has set it (tcsh: this machine's name,
# conda: a compiler's target); that is said.
host_variable() {
  "$(any_python)" -c 'import sys; sys.path.insert(0, sys.argv[1])
from kit import paths
print(paths.host_variable())' "$KIT_ROOT/scripts"
}

# set_up_host: push the kit, run this script there, end with its exit code.
set_up_host() {
  local python
  export HOST
  if [ "$MODE" = install ]; then
    say "Pushing the kit to the host"
    "$KIT_ROOT/scripts/sync_to_remote.sh" --kit-only
  fi
  say "Running ./setup_remote.sh there"
  python=$(any_python)
  exec "$python" "$KIT_ROOT/scripts/transfer/set_up_host.py" ${PASSED[@]+"${PASSED[@]}"}
}

# check_gpu: what the driver can do; without a GPU only --allow-cpu goes on.
check_gpu() {
  if [ "$ALLOW_CPU" = yes ]; then
    "$PYTHON" "$KIT_ROOT/scripts/check_gpu.py" --allow-cpu
    return
  fi
  "$PYTHON" "$KIT_ROOT/scripts/check_gpu.py"
}

# check_platform: where the pinned torch and bitsandbytes have no wheels.
check_platform() {
  local version
  [ "$(uname -s)" = Darwin ] || return 0
  if [ "$(uname -m)" = x86_64 ] && ! on_apple_silicon; then
    die "the pinned torch has no wheels for Intel Macs; use a Linux machine or Apple silicon"
  fi
  version=$(sw_vers -productVersion)
  [ "${version%%.*}" -ge 14 ] ||
    die "macOS $version: bitsandbytes has wheels for macOS 14 and newer; update macOS"
}

# final_check ENV: before the switch. On the GPU, unless --allow-cpu goes on without one.
final_check() {
  local device=(--gpu) what="one forward pass in 4 bits" script=nf4_forward.py
  if [ "$ALLOW_CPU" = yes ]; then device=(); fi
  if [ "$ENV_NAME" = serve ]; then what="vLLM's options and kernels" script=vllm_check.py; fi
  run_with_ticker "$what" \
    "$1/bin/python" "$KIT_ROOT/scripts/setup/$script" ${device[@]+"${device[@]}"}
}

check() {
  env_state
  choose_backend
  find_remote_python
  printf 'ok    python  %s (%s, %s)\n' "$PYTHON_VERSION" "$PYTHON" "$PYTHON_MACHINE"
  check_gpu || FAILED=yes
  "$PYTHON" "$KIT_ROOT/scripts/check_storage.py" || FAILED=yes
  check_packages
  case $STATE in ready | untidy | suspect) final_check "$LINK" || FAILED=yes ;; esac
  [ "$FAILED" = no ]
}

if [ "$HERE" = no ]; then
  if [ "$NAMED" = no ] && [ -n "$HOST" ]; then
    HOST=$(host_variable)
  fi
  [ -n "$HOST" ] || host_from_config
  [ -z "$HOST" ] || set_up_host
fi

if [ "$ENV_NAME" = serve ] && [ "$(uname -sm)" != "Linux x86_64" ]; then
  die "vLLM has wheels for Linux x86-64 alone, this is $(uname -sm);" \
    "set it up on a GPU host, or serve here with make serve ENGINE=own"
fi
environment "$ENV_NAME"
if [ "$MODE" = check ]; then
  check
  exit
fi
env_state
if [ "$FORCE" = no ] && [ "$STATE" = ready ] && [ "$STAMPED_GPU:$ALLOW_CPU" != cpu:no ]; then
  ok ".venv-$ENV_NAME  Python ${STAMPED_PYTHON%% *} ($STAMPED_BACKEND), nothing to do"
  exit 0
fi

step "Python"
check_platform
choose_backend
if [ "$ALLOW_CPU" = no ]; then GPU=gpu; else GPU=cpu; fi
# A host's other disks may be gone after a stop, whatever room they have.
if [ "$GPU" = gpu ]; then place_caches 1000000; else place_caches 20; fi
find_remote_python
ok "python  $PYTHON_VERSION ($PYTHON, $PYTHON_MACHINE)"
step "NVIDIA driver and GPU"
check_stage check_gpu
step "Disk space"
check_stage look_before_installing
step "Packages ($BACKEND)"
install_environment "$BACKEND"
step "Summary"
summary
STEP=''
if [ "$ENV_NAME" = serve ]; then
  note "next: make serve ENGINE=vllm CHECKPOINT=NAME@VERSION"
elif [ "$ALLOW_CPU" = yes ]; then
  note "next: make validate ARGS=\"--env remote --allow-cpu\""
else
  note "next: make validate ARGS=\"--env remote\""
fi
