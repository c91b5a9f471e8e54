#!/usr/bin/env bash
# Set up this machine for data work: Python 3.10, the folders, and the packages of
# requirements-local.txt in .venv-local. Safe to run again: with nothing to do it ends at once.
#
#   ./setup_local.sh             set up, repair or update; the old one works until the switch
#   ./setup_local.sh --check     only report: Python, disk, folders, every file, every import
#   ./setup_local.sh --force     build the environment anew, whatever is there
#
# TANDEM_PYTHON=3.12 ./setup_local.sh   another Python, 3.10 to 3.13, or the path of one; it
#                                       stays the choice until another is named
# UV=/path/to/uv                        this uv; else the one on PATH, else one is fetched
#
# Exit codes: 0 good, 1 a check or the work failed, 2 called wrongly, 130/143 interrupted.
set -euo pipefail

# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/scripts/kit/common.sh"
# shellcheck source=scripts/setup/environment.sh
. "$KIT_ROOT/scripts/setup/environment.sh"

MODE=install FORCE=no FAILED=no BACKEND=auto
for argument; do
  case $argument in
    --check) MODE=check ;;
    --force) FORCE=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) usage_error "unknown argument '$argument'; see ./$PROGRAM --help" ;;
  esac
done

FOLDERS=(data/raw data/processed data/synthetic models adapters)

missing_folders() {
  local folder
  for folder in "${FOLDERS[@]}"; do
    if [ ! -d "$KIT_ROOT/$folder" ]; then printf '%s ' "$folder"; fi
  done
}

make_folders() {
  local folder
  for folder in "${FOLDERS[@]}"; do
    [ -d "$KIT_ROOT/$folder" ] || mkdir -p "$KIT_ROOT/$folder" 2>/dev/null ||
      die "$folder cannot be made; check the owner and the permissions of $KIT_ROOT (ls -la)"
    if [ ! -e "$KIT_ROOT/$folder/.gitkeep" ] && [ -w "$KIT_ROOT/$folder" ]; then
      : >"$KIT_ROOT/$folder/.gitkeep"
    fi
  done
}

check() {
  local missing
  find_python
  printf 'ok    python  %s (%s, %s)\n' "$PYTHON_VERSION" "$PYTHON" "$PYTHON_MACHINE"
  "$PYTHON" "$KIT_ROOT/scripts/check_storage.py" || FAILED=yes
  missing=$(missing_folders)
  if [ -z "$missing" ]; then
    printf 'ok    folders  %s\n' "${FOLDERS[*]}"
  else
    fail_line folders "missing: $missing" "./$PROGRAM"
  fi
  check_packages
  STEP=''
  [ "$FAILED" = no ]
}

final_check() { :; } # importing every package was all

environment local
if [ "$MODE" = check ]; then
  check
  exit
fi
env_state
if [ "$FORCE" = no ] && [ "$STATE" = ready ] && [ -z "$(missing_folders)" ]; then
  ok ".venv-local  Python ${STAMPED_PYTHON%% *}, nothing to do"
  exit 0
fi

step "Python version"
place_caches 3
find_python
ok "python  $PYTHON_VERSION ($PYTHON, $PYTHON_MACHINE)"
step "Disk space"
check_stage look_before_installing
step "Folders"
make_folders
ok "folders  ${FOLDERS[*]}"
step "Packages"
install_environment venv
step "Summary"
summary
STEP=''
note "next: make validate"
