#!/usr/bin/env bash
# Measure the kit against what it competes with: ratios, side by side in one run.
#
# Usage: tests/bench/run.sh [--smallest] [NAME...] [OPTION...]
#
# NAME is environments, transfer, data, training, evaluation, serving or embeddings; without names:
# all of them, some ten minutes. Run it on a machine with nothing else to do; the ratios hold on any
# machine, the seconds on this one. docs/BENCHMARKS.md has the results. --smallest (or
# BENCH_SMALLEST=1) only shows that each still runs: a few rows, one round, no goals. Other options
# (serving --adapters) go to the benchmarks that are named.
#
# Exit codes: 0 measured, 1 a measurement failed, 2 called wrongly.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/kit/common.sh
. scripts/kit/common.sh

case "${1-}" in -h | --help)
  usage
  exit 0
  ;;
esac
names=() options=()
for word in "$@"; do
  case $word in
    --smallest) export BENCH_SMALLEST=1 ;;
    --*) options+=("$word") ;;
    *) names+=("$word") ;;
  esac
done
set -- ${names[@]+"${names[@]}"}
[ $# != 0 ] || set -- environments transfer data training evaluation serving embeddings
failed=''
for name in "$@"; do
  say "$name"
  case $name in
    environments | transfer) command=("tests/bench/$name.sh") ;;
    data | embeddings) command=(.venv-local/bin/python "tests/bench/$name.py") ;;
    training | evaluation | serving) command=(.venv-remote/bin/python "tests/bench/$name.py") ;;
    *) usage_error "nothing to measure is named $name; environments, transfer, data, training, evaluation, serving or embeddings" ;;
  esac
  "${command[@]}" ${options[@]+"${options[@]}"} || failed="$failed $name"
done
[ -z "$failed" ] || die "failed:$failed; the lines above say why"
