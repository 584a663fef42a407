#!/usr/bin/env bash
# A real SLURM on this machine for tests: slurm.sh run COMMAND…, or start, stop. Needs root and Debian: it installs slurmctld, slurmd, slurm-client,
# slurm-wlm-basic-plugins and munge. Listens on loopback only; stops what it started, removes what it wrote to /etc/slurm, and nothing else.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=/var/lib/glassworks-slurm
conf=/etc/slurm # job steps are started without SLURM_CONF
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge)

obstacle() {
  [ "$(id -u)" = 0 ] || { echo "it needs root"; return; }
  command -v apt-get >/dev/null && grep -qx ID=debian /etc/os-release || { echo "it needs Debian and its packages"; return; }
  [ ! -e $conf/slurm.conf ] || grep -q '^ClusterName=glassworks$' $conf/slurm.conf || { echo "$conf/slurm.conf belongs to another cluster"; return; }
  dpkg -s "${packages[@]}" >/dev/null 2>&1 && return
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 || echo "apt-get cannot install ${packages[*]}"
}

running() { # a pid file counts only while its process is a daemon of this cluster: numbers are used again
  [ -s "$root/$1.pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$root/$1.pid")/cmdline" | grep -q "$2"
}

within() { # seconds command…
  local tries=$(($1 * 10)); shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || { echo "slurm.sh: in vain: $*" >&2; tail -n 5 $root/log/*.log >&2; return 1; }
    sleep 0.1
  done
}

idle() { [ "$(sinfo --noheader --Node --partition cpu,spot --format %T | grep -c idle)" = 4 ]; }

configure() {
  mkdir -p $root/{munge,log,state,spool-n1,spool-n2,spool-n3,spool-n4} $conf
  chmod 711 $root/munge
  [ -s $root/munge/munge.key ] || (umask 077; head -c 128 /dev/urandom >$root/munge/munge.key)
  sed "s|@ROOT@|$root|; s|@HOST@|$(hostname -s)|" "$here/slurm.conf.in" >$conf/slurm.conf
  for number in 0 1 2 3; do [ -e $root/gpu$number ] || mknod $root/gpu$number c 1 3; done
  echo "NodeName=n[1-4] Name=gpu File=$root/gpu[0-3]" >$conf/gres.conf
  echo "CgroupAutomount=no" >$conf/cgroup.conf
}

start_controller() { running slurmctld slurmctld || slurmctld; within 20 scontrol ping; }

start() {
  running slurmctld slurmctld || rm -rf $root/state # jobs, and nodes taken away, of a run that failed
  configure
  running munge/munged munged || munged --force --key-file=$root/munge/munge.key --socket=$root/munge/munge.socket \
    --pid-file=$root/munge/munged.pid --log-file=$root/log/munged.log --seed-file=$root/munge/munged.seed
  start_controller
  for node in n1 n2 n3 n4; do running slurmd-$node "slurmd -N $node" || slurmd -N $node; done
  within 30 idle
}

halt() { # a daemon, by the name of its pid file and its own
  running "$1" "$2" || return 0
  local pid; pid=$(cat "$root/$1.pid"); kill "$pid"
  within 20 test ! -e "/proc/$pid" || kill -KILL "$pid"
}

stop() {
  scancel --user=root 2>/dev/null || true
  for node in n1 n2 n3 n4; do halt slurmd-$node "slurmd -N $node"; done
  halt slurmctld slurmctld
  halt munge/munged munged
  rm -f $conf/{slurm,gres,cgroup}.conf # Snakemake's plugin asks a controller that is named there, for ten seconds, whatever is run
}

case ${1:-} in
start) start ;;
stop) stop ;;
stop-controller) halt slurmctld slurmctld ;;
start-controller) start_controller ;;
run)
  shift
  why=$(obstacle)
  [ -z "$why" ] || { echo "tests on a cluster are skipped: $why"; exit 0; }
  trap stop EXIT
  start
  "$@"
  ;;
*) sed -n 2,3p "$0"; exit 2 ;;
esac
