#!/usr/bin/env bash
# Run a command of the kit on the host, in the kit's folder there.
#
#   scripts/host_run.sh [HOST] -- COMMAND …                   make validate, say; output comes here
#   scripts/host_run.sh [HOST] --detach NAME -- COMMAND …     goes on when this laptop leaves
#
# HOST is an ssh name (gpu1, me@10.0.0.7), or a folder beginning with /, ./ or ../ that stands in
# for a host. Without it: the variable HOST, TANDEM_HOST, or host in configs/paths_config.json.
# --accept-new-host-key trusts a host that this machine has never seen.
#
# A detached job runs in tmux where the host has it (tmux attach -t tandem-NAME), else under nohup;
# its log is .jobs/NAME/log.txt there: scripts/host_watch.sh HOST NAME follows it.
#
# Exit codes: the command's own; with --detach 0 started, 1 not; 2 called or configured wrongly.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/kit/common.sh"

for word in "$@"; do # those after -- are the command's
  case $word in --) break ;; -h | --help) usage && exit 0 ;; esac
done
python=$KIT_ROOT/.venv-local/bin/python # without asking it for its version: that takes as long
[ -x "$python" ] || python=$(any_python)
exec "$python" -S "$KIT_ROOT/scripts/transfer/__main__.py" run "$@"
