#!/usr/bin/env bash
# Run a Python command of the kit with the right interpreter (the Makefile does).
#
# Usage: scripts/kit/run.sh any|local|remote|either NAME.py [ARGUMENTS]
#
#   any     whichever Python 3.10 or newer there is: for what must work before any set-up
#   local   .venv-local, the environment for data work
#   remote  .venv-remote, the training environment
#   either  .venv-local, or .venv-remote where only that stands (on a host)
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "$0")/common.sh"

[ $# -ge 2 ] || usage_error "an environment and a command are needed; any|local|remote|either NAME.py"
environment=$1 command=$2
shift 2
if [ "$environment" = either ]; then
  environment=local
  [ -x "$KIT_ROOT/.venv-local/bin/python" ] || [ ! -x "$KIT_ROOT/.venv-remote/bin/python" ] || environment=remote
fi
case $environment in
  any) python=$(any_python) ;;
  local | remote)
    python="$KIT_ROOT/.venv-$environment/bin/python"
    [ -x "$python" ] || die "$command needs the $environment environment; make setup-$environment"
    ;;
  *) usage_error "no environment is named $environment; any, local, remote or either" ;;
esac
exec "$python" "$KIT_ROOT/scripts/$command" "$@"
