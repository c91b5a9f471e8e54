#!/usr/bin/env bash
# Run the tests. Installs what they need where it may, and says plainly what it skips and why.
#
# Usage: tests/run.sh [--fast | --lint] [FILE...]
#
#   --fast    leave out what takes long (marked slow, or in need of the training stack)
#   --lint    only shellcheck, shfmt and ruff
#   FILE...   only these test files (tests/ROOM/NAME.bats, tests/ROOM/test_NAME.py)
#
# Exit codes: 0 everything passed, 1 something failed, 2 called wrongly.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/kit/common.sh
. scripts/kit/common.sh

mode=all
jobs_beside=() pids_beside=() logs_beside=()
files=()
for word in "$@"; do
  case $word in
    -h | --help)
      usage
      exit 0
      ;;
    --fast | --lint) mode=${word#--} ;;
    -*) usage_error "unknown option $word; --fast or --lint" ;;
    *) files+=("$word") ;;
  esac
done

failed=() skipped=()

# step NAME COMMAND...: run it, remember whether it failed.
step() {
  local name=$1
  shift
  say "$name"
  if "$@"; then :; else
    failed+=("$name")
  fi
}

skip() {
  skipped+=("$*")
  warn "skipped: $*"
}

# system_package TOOL APT BREW: install a tool through apt (its packages) or brew where that needs
# no password.
system_package() {
  command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] && return
  if command -v apt-get >/dev/null 2>&1; then
    local sudo=''
    [ "$(id -u)" = 0 ] || sudo='sudo -n'
    say "Installing $2 for the tests"
    # shellcheck disable=SC2086  # no sudo for root; several packages
    { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $2; } >/dev/null 2>&1 ||
      skip "tests that need $1: $2 could not be installed; sudo apt-get install $2"
  elif command -v brew >/dev/null 2>&1; then
    brew install -q "$3" >/dev/null 2>&1 || skip "tests that need $1: brew install $3 failed"
  else
    skip "tests that need $1: install $2"
  fi
}

install_bats() {
  [ -x tests/node_modules/.bin/bats ] && [ tests/node_modules/.bin/bats -nt tests/package-lock.json ] && return
  if ! command -v npm >/dev/null 2>&1; then
    skip "the shell tests (*.bats): npm is not installed; install Node.js"
    return 1
  fi
  say "Installing bats"
  (cd tests && npm ci --silent --no-fund --no-audit >/dev/null && touch node_modules/.bin/bats) ||
    { skip "the shell tests (*.bats): npm ci failed in tests/" && return 1; }
}

# wanted PATTERN: the files to run, as given or all that match.
wanted() {
  local file
  for file in ${files[@]+"${files[@]}"}; do
    # shellcheck disable=SC2254  # a pattern on purpose
    case $file in $1) printf '%s\n' "$file" ;; esac
  done
  if [ ${#files[@]} = 0 ]; then
    find tests -path tests/node_modules -prune -o -name "${1##*/}" -print | sort
  fi
}

lint() {
  local shell=() file
  # what git has, and what is new and not ignored; a copy without git lints by name
  while IFS= read -r file; do
    shell+=("$file")
  done < <(git ls-files -co --exclude-standard '*.sh' 'tests/support/*.bash' tests/openrsync-shim/rsync .ci/run 2>/dev/null || find ./*.sh scripts tests -name '*.sh')
  step "shellcheck" .venv-local/bin/shellcheck -x ${shell[@]+"${shell[@]}"}
  step "shfmt" .venv-local/bin/shfmt -d -i 2 -ci ${shell[@]+"${shell[@]}"}
  step "ruff check" .venv-local/bin/ruff check -q .
  step "ruff format" .venv-local/bin/ruff format -q --check .
}

# run_pytest ENVIRONMENT MARKS FILE...
run_pytest() {
  local environment=$1 marks=$2 code=0 file
  shift 2
  if [ "$environment" = remote ]; then # only files with such tests: the others import what is not there
    local all=("$@")
    set --
    for file in ${all[@]+"${all[@]}"}; do
      if grep -q remote_env "$file"; then set -- "$@" "$file"; fi
    done
    [ $# != 0 ] || return 0
  fi
  ".venv-$environment/bin/python" -m pytest -m "$marks" "$@" || code=$?
  [ "$code" = 5 ] && code=0 # no test of these files has the marks
  return "$code"
}

# shell_tests FILE...: bats over them.
shell_tests() {
  local tags=()
  [ "$mode" = fast ] && tags=(--filter-tags '!slow')
  [ $# = 0 ] || step "shell tests" tests/node_modules/.bin/bats --timing ${tags[@]+"${tags[@]}"} "$@"
}

lint_and_shell() {
  [ ${#files[@]} != 0 ] || lint
  shell_tests ${shell_files[@]+"${shell_files[@]}"}
}

# beside NAME COMMAND...: run it in the background; `join` waits, shows its output, notes failures.
beside() {
  local log
  log=$(mktemp)
  jobs_beside+=("$1") logs_beside+=("$log")
  shift
  { "$@" && [ ${#failed[@]} = 0 ]; } >"$log" 2>&1 &
  pids_beside+=("$!")
}

join() {
  local i
  for i in ${pids_beside[@]+"${!pids_beside[@]}"}; do
    step "${jobs_beside[i]}" wait "${pids_beside[i]}"
    cat "${logs_beside[i]}"
    rm -f "${logs_beside[i]}"
  done
}

# python_tests FILE...: those of the data environment.
python_tests() {
  local fast=''
  [ "$mode" = fast ] && fast=' and not slow'
  [ $# = 0 ] || step "Python tests, data environment" run_pytest local "not remote_env$fast" "$@"
}

./setup_local.sh
[ "$mode" = fast ] || lint
if [ "$mode" != lint ]; then
  system_package sshd openssh-server openssh
  system_package rsync rsync rsync
  [ "$mode" = fast ] || system_package chromium chromium chromium
  if [ "$mode" != fast ] && [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; then
    system_package slurmctld "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins" slurm
  fi
  [ "$mode" = fast ] || ./setup_remote.sh --here --allow-cpu
  export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TANDEM_TEST_FAST=''
  [ "$mode" = fast ] && export TANDEM_TEST_FAST=1
  unset HOST HOSTS BUCKET ENGINE RAW DRY_RUN CONFIRM TANDEM_HOST TANDEM_WORKDIR TANDEM_ENV MAKEFLAGS MAKELEVEL
  shell_files=() python_files=() later=()
  if install_bats; then
    # shellcheck disable=SC2207  # names without spaces
    shell_files=($(wanted 'tests/*/*.bats'))
  fi
  # shellcheck disable=SC2207
  python_files=($(wanted 'tests/*/test_*.py'))
  # three at once: the shell tests, and many others, mostly wait
  if [ "$mode" = fast ]; then
    half=$((${#python_files[@]} / 2))
    later=(${python_files[@]+"${python_files[@]:half}"})
    python_files=(${python_files[@]+"${python_files[@]:0:half}"})
    beside "lint and shell tests" lint_and_shell
    beside "the other half of the Python tests" python_tests ${later[@]+"${later[@]}"}
    python_tests ${python_files[@]+"${python_files[@]}"}
  else
    beside "the shell tests" shell_tests ${shell_files[@]+"${shell_files[@]}"}
    beside "the data environment's tests" python_tests ${python_files[@]+"${python_files[@]}"}
    [ ${#python_files[@]} = 0 ] || step "Python tests, training environment" \
      run_pytest remote remote_env ${python_files[@]+"${python_files[@]}"}
  fi
  join
  [ "$mode" != fast ] || skip "slow tests and the training stack's: make test runs them"
fi

for line in ${skipped[@]+"${skipped[@]}"}; do note "skipped: $line"; done
if [ ${#failed[@]} != 0 ]; then
  printf 'FAILED: %s\n' ${failed[@]+"${failed[@]}"}
  exit 1
fi
printf 'Everything passed.\n'
