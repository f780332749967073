#!/usr/bin/env bash
# A throw-away SLURM cluster on loopback, no systemd: munged + slurmctld + N x slurmd, all as the calling
# user, all files under one directory, every "node" in its own PID/UTS/mount namespace (own hostname and
# /etc/hosts; kill -9 of its init is a power cut and leaves no orphans).  Root or not (user namespaces).
#   slurm-cluster.sh start DIR [NODES=2] ; . DIR/env.sh ; sbatch ... ; slurm-cluster.sh stop DIR
#   slurm-cluster.sh kill-node|freeze-node|start-node DIR node2 ; slurm-cluster.sh status DIR
set -euo pipefail
cmd=${1:?start|stop|status|kill-node|freeze-node|start-node|start-controller}; dir=$(realpath -m "${2:?DIR}"); arg=${3:-}
export PATH=/usr/sbin:/sbin:$PATH SLURM_CONF=$dir/slurm.conf
NODES=${NODES:-${arg:-2}}; CPUS=${CPUS:-16}; MEM=${MEM:-64000}; GPUS=${GPUS:-8}  # pretended, see config_overrides
PORT=${PORT:-$((20000 + RANDOM % 10000))}      # slurmctld; node i listens on PORT+i; 127.0.0.1 only
AUTH=${AUTH:-munge}                            # munge | none
CRED_EXPIRE=${CRED_EXPIRE:-5}                  # also how long a requeued job waits; below 5 Slurm falls back to 120

alive() { grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }  # not kill -0: PID 1 of a container may never reap
start_node() {
  local user_ns=()
  [ "$(id -u)" = 0 ] || user_ns=(--user --map-current-user --keep-caps)
  ! { [ -s "$dir/run/$1.pid" ] && alive "$(cat "$dir/run/$1.pid")"; } || { echo "$1 is up" >&2; return 1; }
  # shellcheck disable=SC2016
  setsid unshare "${user_ns[@]}" --pid --fork --kill-child --mount --mount-proc --uts bash -c '
    mount --bind "$1/hosts" /etc/hosts; hostname "$2"
    slurmd -D -N "$2" -f "$1/slurm.conf" & trap "kill $!" TERM; wait $!; wait $!' \
    _ "$dir" "$1" </dev/null >"$dir/log/$1.out" 2>&1 &
  echo $! >"$dir/run/$1.pid"
}
stop_pid() {  # TERM, up to 5 s, KILL
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 50); do alive "$1" || return 0; sleep 0.1; done
  kill -9 "$1" 2>/dev/null || true
}

case $cmd in
start)
  [ ! -e "$SLURM_CONF" ] || { echo "already there: $dir" >&2; exit 1; }
  mkdir -p "$dir"/{run,log,state,spool,munge}; chmod 755 "$dir" "$dir"/{run,log,state,spool}; chmod 711 "$dir/munge"
  host=$(hostname -s); me=$(id -un)
  authinfo=cred_expire=$CRED_EXPIRE
  if [ "$AUTH" = munge ]; then
    authinfo="socket=$dir/munge/socket,$authinfo"
    (umask 077; head -c 128 /dev/urandom >"$dir/munge/munge.key")
    munged --key-file="$dir/munge/munge.key" --socket="$dir/munge/socket" --pid-file="$dir/munge/munged.pid" \
           --seed-file="$dir/munge/seed" --log-file="$dir/munge/munged.log" --num-threads=2 --force
  fi
  { cat /etc/hosts; for i in $(seq "$NODES"); do echo "127.0.0.1 node$i"; done; } >"$dir/hosts"
  cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/$AUTH
CredType=cred/$AUTH
AuthInfo=$authinfo
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
# no cgroups, no affinity, no accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.log
MpiDefault=none
PropagateResourceLimits=NONE
# believe the CPUs and memory written here, not what the host has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# short timers, so that tests are quick
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2,kill_invalid_depend,preempt_send_user_signal
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
MessageTimeout=10
TCPTimeout=2
MinJobAge=3600
ReturnToService=2
JobRequeue=1
# partition "high" pushes jobs of "main" back into the queue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=$CPUS Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN
$(for i in $(seq "$NODES"); do echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + i))"; done)
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 MaxTime=7-0 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=7-0 PreemptMode=OFF
CONF
  # fake GPUs: slurmd wants character devices whose names end in a number; nothing opens them
  gpudev=$dir/run/nvidia
  for g in $(seq 0 $((GPUS - 1))); do mknod -m 666 "$gpudev$g" c 1 3 2>/dev/null || { gpudev=/dev/tty; break; }; done
  printf 'AutoDetect=off\nName=gpu File=%s[0-%s]\n' "$gpudev" $((GPUS - 1)) >"$dir/gres.conf"
  printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" >"$dir/env.sh"
  setsid slurmctld -f "$SLURM_CONF" </dev/null >"$dir/log/ctld.out" 2>&1
  for i in $(seq "$NODES"); do start_node "node$i"; done
  for _ in $(seq 100); do
    [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -c '^idle$')" = "$NODES" ] && { sinfo; exit 0; }
    sleep 0.1
  done
  echo "cluster did not come up" >&2; tail -n 20 "$dir"/log/* >&2; exit 1 ;;
status) sinfo -N -l; squeue ;;
start-node) start_node "$arg" ;;
kill-node) kill -9 "$(cat "$dir/run/$arg.pid")" ;;   # crash: --kill-child takes the whole PID namespace along
start-controller) setsid slurmctld -f "$SLURM_CONF" </dev/null >>"$dir/log/ctld.out" 2>&1 ;;
freeze-node)                                         # hang / pulled cable: peers get no FIN, no RST
  ns=$(readlink "/proc/$(pgrep -P "$(cat "$dir/run/$arg.pid")")/ns/uts")
  for p in /proc/[0-9]*; do [ "$(readlink "$p/ns/uts")" != "$ns" ] || kill -STOP "${p#/proc/}"; done ;;
stop)
  timeout 10 scancel --full --user="$(id -un)" 2>/dev/null || true
  for f in "$dir"/run/node*.pid; do
    pgrep -P "$(cat "$f")" >"$f.init" || continue
    while read -r p; do stop_pid "$p"; done <"$f.init"
    kill -9 "$(cat "$f")" 2>/dev/null || true
  done
  for f in "$dir/run/slurmctld.pid" "$dir/munge/munged.pid"; do [ ! -s "$f" ] || stop_pid "$(cat "$f")"; done ;;
esac
