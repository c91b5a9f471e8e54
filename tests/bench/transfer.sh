#!/usr/bin/env bash
# Measure a sync against bare rsync over the same ssh, side by side, on a real sshd on loopback.
#
#   tests/bench/transfer.sh [--rounds N] [--size MB] [--smallest]
#
# Default: 5 rounds, one file of 500 MB; --smallest: one round of 40 small files and 1 MB.
#
# Both use the same cipher (aes128-gcm) and the same tree: 10,000 files of 2 KB, or one big file.
# Where nothing changed, a sync is held against bare rsync, which compares size and time. Where
# files were sent it is held against rsync and then sha256sum of what was sent, on both sides: a
# sync compares those too, and notices changed bytes behind an unchanged size and time. Medians;
# needs sshd, rsync, sha256sum and 4x the size in TMPDIR. The goals: unchanged, 1.1x for 10,000
# files and 1.05x for one big one; 1.2x where files were sent.
#
# Exit codes: 0 measured, 1 it could not be measured, 2 called wrongly.
set -euo pipefail
# shellcheck source=scripts/kit/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/kit/common.sh"

rounds=5 size=500 files=10000 smallest=${BENCH_SMALLEST:-}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --smallest) smallest=1 ;;
    --rounds | --size)
      case ${2-} in '' | *[!0-9]* | 0*) usage_error "$1 needs a number from 1" ;; esac
      if [ "$1" = --rounds ]; then rounds=$2; else size=$2; fi
      shift
      ;;
    *) usage_error "unknown option $1; see --help" ;;
  esac
  shift
done

if [ -n "$smallest" ]; then rounds=1 size=1 files=40; fi
reason=$("$KIT_ROOT/tests/sshd.sh" available) || die "nothing measured: $reason"
need rsync "apt-get install rsync, brew install rsync"
place=$(mktemp -d "${TMPDIR:-/tmp}/tandem-bench.XXXXXX")
finish() {
  "$KIT_ROOT/tests/sshd.sh" stop "$place/sshd" || true
  rm -rf "$place"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$KIT_ROOT/tests/sshd.sh" start "$place/sshd" >/dev/null
export TANDEM_SSH_CONFIG="$place/sshd/ssh_config"
unset HOST BUCKET TANDEM_HOST TANDEM_REMOTE_DIR DRY_RUN RSYNC
unset PYTHONDONTWRITEBYTECODE # as on a laptop, where Python keeps what it compiled
host_home="$place/sshd/home"
ssh="ssh -F $TANDEM_SSH_CONFIG -o Ciphers=aes128-gcm@openssh.com -o BatchMode=yes -o LogLevel=ERROR"

# seconds COMMAND...: its wall time; its output goes to the log.
seconds() {
  local TIMEFORMAT=%R
  { time "$@" >>"$place/log" 2>&1; } 2>&1 || {
    tail -n 5 "$place/log" >&2
    die "failed: $*"
  }
}
bare() { rsync -rlt -e "$ssh" "$place/$1/data/processed/" "gpu-test:bare-$1/"; }
hashed() { # rsync, then the hashes of what it sent, here and there
  local here="$place/$1/data/processed"
  rsync -rlt --out-format=%n -e "$ssh" "$here/" "gpu-test:bare-$1/" >"$place/sent"
  grep -v '/$' "$place/sent" | tr '\n' '\0' >"$place/names"
  [ -s "$place/names" ] || return 0
  (cd "$here" && xargs -0 sha256sum <"$place/names" >"$place/hashes-here")
  $ssh gpu-test "cd bare-$1 && xargs -0 sha256sum" <"$place/names" >"$place/hashes-there"
  cmp "$place/hashes-here" "$place/hashes-there"
}
ours() {
  TANDEM_WORKDIR="$place/$1" REMOTE_DIR="ours-$1" "$KIT_ROOT/scripts/sync_to_remote.sh" gpu-test
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

# measure LABEL TREE GOAL AGAINST PREPARE: alternate a sync and AGAINST (bare or hashed) for all
# rounds; PREPARE comes before each pair.
measure() {
  local label=$1 tree=$2 goal=$3 against=$4 prepare=$5 n
  : >"$place/bare"
  : >"$place/ours"
  for ((n = 0; n < rounds; n++)); do
    $prepare "$tree" "$n"
    seconds "$against" "$tree" >>"$place/bare"
    seconds ours "$tree" >>"$place/ours"
  done
  local first second
  first=$(median <"$place/bare") second=$(median <"$place/ours")
  printf '%-34s %8s %8s %6.2fx  %s\n' "$label" "$first" "$second" \
    "$(awk "BEGIN {print $second / $first}")" "$goal"
}

nothing() { :; }
fresh() { rm -rf "$host_home/bare-$1" "$host_home/ours-$1" "$place/$1/.cache"; }
fresh_data() { # the kit is there, the data is not
  rm -rf "$host_home/bare-$1"
  mkdir "$host_home/bare-$1"
  find "$host_home/ours-$1/data/processed" -mindepth 1 ! -name .gitkeep -delete
}
some_changed() { # one in a hundred
  local k
  for ((k = 0; k < files / 100 || k == 0; k++)); do
    printf 'round %s\n' "$2" >>"$place/$1/data/processed/d$((k * 100 % 40))/f$((k * 100)).txt"
  done
}
end_changed() { printf 'round %s\n' "$2" >>"$place/$1/data/processed/model.bin"; }

say "Making $files small files and one of $size MB"
mkdir -p "$place/small/data/processed" "$place/big/data/processed"
head -c $((size * 1048576)) /dev/urandom >"$place/big/data/processed/model.bin"
head -c 2048 /dev/urandom >"$place/sample"
for ((d = 0; d < 40; d++)); do
  mkdir "$place/small/data/processed/d$d"
  for ((f = d; f < files; f += 40)); do
    printf '%s\n' "$f" | cat - "$place/sample" >"$place/small/data/processed/d$d/f$f.txt"
  done
done
for tree in small big; do
  fresh "$tree" && ours "$tree" >>"$place/log" 2>&1 && bare "$tree" >>"$place/log" 2>&1
done

printf '%-34s %8s %8s %7s  %s\n' "seconds, median of $rounds" rsync sync ratio goal
measure "$files small files, unchanged" small "1.10x" bare nothing
measure "one file of $size MB, unchanged" big "1.05x" bare nothing
printf '%s\n' "against rsync, then sha256sum on both sides:"
measure "$files small files, 1 % changed" small "1.20x" hashed some_changed
measure "one file of $size MB, its end changed" big "1.20x" hashed end_changed
measure "$files small files, new" small "1.20x" hashed fresh_data
measure "one file of $size MB, new" big "1.20x" hashed fresh_data
