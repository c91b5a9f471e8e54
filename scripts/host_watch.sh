#!/usr/bin/env bash
# Follow a detached job or a training run on the host; a lost connection is taken up again.
#
#   scripts/host_watch.sh [HOST] [NAME] [--once]
#
# NAME is the job of host_run.sh --detach, or a run id; without it, the newest run. HOST is an ssh
# name or a folder that stands in for a host; to name a job without HOST, set HOST=. The log goes
# to stdout, status lines to stderr. --once prints the status and ends. Ctrl-C ends the watching
# only: what runs there goes on.
#
# Exit codes: 0 it ended well, 1 it failed, was stopped or was killed there, 2 no such job
# or run, 130 interrupted.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/kit/common.sh"

case " ${*-} " in *" -h "* | *" --help "*) usage && exit 0 ;; esac
python=$KIT_ROOT/.venv-local/bin/python # without asking it for its version: that takes as long
[ -x "$python" ] || python=$(any_python)
exec "$python" -S "$KIT_ROOT/scripts/transfer/__main__.py" watch "$@"
