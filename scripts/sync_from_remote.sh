#!/usr/bin/env bash
# Fetch adapters, runs and reports from the host, and verify them here.
#
#   scripts/sync_from_remote.sh [HOST] [options]      make sync-down HOST=gpu1
#
# HOST is an ssh name (gpu1, me@10.0.0.7), or a folder beginning with /, ./ or ../ that stands in
# for a host. Without it: the variable HOST, TANDEM_HOST, or host in configs/paths_config.json.
#
#   --dry-run               print the plan and change nothing (DRY_RUN=1 does the same)
#   --with-checkpoints      bring the checkpoints of runs too
#   --verify, --checksum    read every file on both sides again, not only what was touched
#   --accept-new-host-key   trust a host that this machine has never seen
#   --bucket REMOTE:PATH    a bucket instead of a host, through rclone (the variable BUCKET, too)
#
# A version (adapters/NAME/vX.Y.Z) and a run's final/ come complete or not at all: they wait in
# adapters/.incoming/ until SHA-256 agrees with the host and with card.json. A version that is
# already here is never overwritten; a file that was edited here is kept in .replaced/.
# Interrupted? Run the same command again: it goes on where it stopped.
#
# Exit codes: 0 good, 1 the transfer failed or a version differs, 2 called or configured wrongly,
# 130/143 interrupted.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "${BASH_SOURCE[0]%sync_from_remote.sh}kit/common.sh" # dirname would be a process

case " ${*-} " in *" -h "* | *" --help "*) usage && exit 0 ;; esac
python=$KIT_ROOT/.venv-local/bin/python # without asking it for its version: that takes as long
[ -x "$python" ] || python=$(any_python)
exec "$python" -S "$KIT_ROOT/scripts/transfer/__main__.py" down "$@"
