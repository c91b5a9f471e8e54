#!/usr/bin/env bash
# A real two-node Slurm on loopback, for tests: its own munged, slurmctld and two slurmd.
#
#   tests/slurm.sh available      exit 0, or 77 with the reason to skip on stdout
#   tests/slurm.sh start DIR      prints SLURM_CONF=…; nodes gpu1 and gpu2 are idle when it returns
#   tests/slurm.sh stop DIR       ends it and every job that it runs
#
# Exit codes: 0 good, 1 it failed, 2 called wrongly, 77 it cannot run here.
set -euo pipefail

misused() {
  printf 'slurm.sh: %s; see tests/slurm.sh --help\n' "$*" >&2
  exit 2
}

available() {
  local tool
  for tool in slurmctld slurmd munged sbatch squeue scontrol; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null 2>&1 && continue
    echo "no Slurm here ($tool is missing): apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
    return 77
  done
  [ "$(id -u)" = 0 ] || { echo "slurmd wants root" && return 77; }
  [ "$(uname -s)" = Linux ] || { echo "Slurm runs on Linux" && return 77; }
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

configure() { # DIR
  local node ctld gpu1 gpu2
  ctld=$(free_port) gpu1=$(free_port) gpu2=$(free_port)
  mkdir -p "$1/state" "$1/spool-gpu1" "$1/spool-gpu2" "$1/dev"
  for node in 0 1 2 3; do
    [ -e "$1/dev/gpu$node" ] || mknod "$1/dev/gpu$node" c 1 3
  done
  cat >"$1/slurm.conf" <<CONF
ClusterName=tandem
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$ctld
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$1/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc=$1/jobcomp.txt
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=5
SlurmctldTimeout=10
SlurmdTimeout=20
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool-%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd-%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd-%n.log
NodeName=gpu1 NodeAddr=127.0.0.1 Port=$gpu1 NodeHostname=localhost CPUs=2 RealMemory=4000 Gres=gpu:h100:4
NodeName=gpu2 NodeAddr=127.0.0.1 Port=$gpu2 NodeHostname=localhost CPUs=2 RealMemory=4000 Gres=gpu:h100:4
PartitionName=main Nodes=gpu[1-2] Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=short Nodes=gpu[1-2] MaxTime=10 State=UP
CONF
  printf 'NodeName=gpu[1-2] Name=gpu Type=h100 File=%s/dev/gpu[0-3]\n' "$1" >"$1/gres.conf"
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$1/cgroup.conf"
}

start() { # DIR
  local dir tries=0
  [ $# = 1 ] || misused "start needs a folder"
  mkdir -p "$1"
  dir=$(cd "$1" && pwd -P)
  PATH=$PATH:/usr/sbin
  configure "$dir"
  dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 2>/dev/null
  chmod 400 "$dir/munge.key"
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -c -i
  slurmd -N gpu1
  slurmd -N gpu2
  until [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" -eq 2 ]; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ]; then
      tail -n 5 "$dir"/*.log >&2
      stop "$dir"
      exit 1
    fi
    sleep 0.1
  done
  printf 'SLURM_CONF=%s\n' "$SLURM_CONF"
}

stop() { # DIR
  local dir file pid
  [ $# = 1 ] || misused "stop needs a folder"
  [ -d "$1" ] || return 0
  dir=$(cd "$1" && pwd -P)
  SLURM_CONF=$dir/slurm.conf timeout 10 scancel --user root --full -s KILL 2>/dev/null || true # macos-ok: Linux only
  SLURM_CONF=$dir/slurm.conf timeout 10 scontrol shutdown 2>/dev/null || true                  # macos-ok: Linux only
  for file in "$dir"/slurmctld.pid "$dir"/slurmd-*.pid "$dir"/munged.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  done
}

case ${1-} in
  -h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0" ;;
  available) available ;;
  start | stop) "$@" ;;
  *) misused "say available, start or stop" ;;
esac
