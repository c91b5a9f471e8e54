#!/usr/bin/env bash
# Look at what the host has: rsync, a SHA-256 tool, disk, Python, make, tmux, conda, the GPU.
#
#   scripts/host_probe.sh [HOST] [--json] [--accept-new-host-key]
#
# HOST is an ssh name (gpu1, me@10.0.0.7), or a folder beginning with /, ./ or ../ that stands in
# for a host. Without it: the variable HOST, TANDEM_HOST, or host in configs/paths_config.json.
# One ssh connection, nothing is changed there.
#
# Exit codes: 0 good, 1 something that a sync needs is missing, 2 called or configured wrongly.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/kit/common.sh"

case " ${*-} " in *" -h "* | *" --help "*) usage && exit 0 ;; esac
python=$KIT_ROOT/.venv-local/bin/python # without asking it for its version: that takes as long
[ -x "$python" ] || python=$(any_python)
exec "$python" -S "$KIT_ROOT/scripts/transfer/__main__.py" probe "$@"
