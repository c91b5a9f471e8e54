#!/usr/bin/env bash
# Send the kit, its configs and the prepared data to the host, and verify them there.
#
#   scripts/sync_to_remote.sh [HOST] [options]        make sync-up HOST=gpu1
#
# HOST is an ssh name (gpu1, me@10.0.0.7), or a folder beginning with /, ./ or ../ that stands in
# for a host. Without it: the variable HOST, TANDEM_HOST, or host in configs/paths_config.json.
#
#   --dry-run               print the plan and change nothing (DRY_RUN=1 does the same)
#   --kit-only              scripts, configs, docs and tests; no data
#   --verify, --checksum    read every file on both sides again, not only what was touched
#   --delete N              move at most N files that are gone here to .replaced/ there
#   --accept-new-host-key   trust a host that this machine has never seen
#   --bucket REMOTE:PATH    a bucket instead of a host, through rclone (the variable BUCKET, too)
#
# Up go: what git tracks, configs/, data/processed, data/synthetic. Never: secrets, .git,
# environments, base models, raw data, caches. Each file is compared by SHA-256 on the host before
# it gets its name there; a file that was edited on the host is kept in .replaced/.
# Interrupted? Run the same command again: it goes on where it stopped.
#
# Exit codes: 0 good, 1 the transfer failed, 2 called or configured wrongly, 130/143 interrupted.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "${BASH_SOURCE[0]%sync_to_remote.sh}kit/common.sh" # dirname would be a process

case " ${*-} " in *" -h "* | *" --help "*) usage && exit 0 ;; esac
python=$KIT_ROOT/.venv-local/bin/python # without asking it for its version: that takes as long
[ -x "$python" ] || python=$(any_python)
exec "$python" -S "$KIT_ROOT/scripts/transfer/__main__.py" up "$@"
