#!/usr/bin/env bash
# launch/slurm.sbatch under a real SLURM on this machine: two tasks, told to save, requeued, finished.
# Needs root and Debian's slurm-wlm and munge; says so and ends with 0 where they are missing.
#   launch/test/slurm.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in slurmctld slurmd sbatch munged mungekey; do
  command -v "$tool" >/dev/null || { echo "skipped: no $tool (apt-get install slurm-wlm munge)"; exit 0; }
done
[[ $(id -u) == 0 ]] || { echo "skipped: SLURM's daemons need root"; exit 0; }

root=$(mktemp -d)
host=$(hostname -s)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap finish EXIT

mkdir -p "$root"/{state,spool,run}
mungekey --create --keyfile="$root/munge.key"
munged --foreground --force --key-file="$root/munge.key" --socket="$root/munge.socket" \
  --pid-file="$root/munged.pid" --log-file="$root/munged.log" --seed-file="$root/munge.seed" &
pids+=($!)

cat >"$root/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
ReturnToService=2
KillWait=60
MinJobAge=600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES State=UP
CONF
export SLURM_CONF="$root/slurm.conf"
slurmctld -D >"$root/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D >"$root/slurmd.out" 2>&1 &
pids+=($!)
for _ in $(seq 60); do
  sinfo -h -o %T 2>/dev/null | grep -q idle && break
  sleep 1
done
sinfo || { tail "$root"/*.log "$root"/*.out; exit 1; }

printf '#!/usr/bin/env bash\nexec %q -m jssl.cli "$@"\n' "${PYTHON:-$PWD/.venv/bin/python}" >"$root/jssl"
chmod +x "$root/jssl"
work="$root/run1"
submit() {
  sbatch --parsable --ntasks-per-node=2 --gpus-per-node=0 --cpus-per-task=1 --time=20 \
    --output="$root/job.out" --export="ALL,JSSL=$root/jssl,JAX_PLATFORMS=cpu" launch/slurm.sbatch \
    --config=configs/simclr_digits.py:tiny --config.steps=4000 --config.checkpoint.every=4000 \
    --config.eval.every=0 --config.log.every=20 --workdir="$1"
}
job=$(submit "$work")
step() { tail -n 1 "$work/metrics.jsonl" 2>/dev/null | grep -o '"step": [0-9]*' | grep -o '[0-9]*' || echo 0; }
for _ in $(seq 300); do (( $(step) >= 40 )) && break; sleep 1; done
echo "at step $(step): the batch script is told that time is short"
scancel --signal=USR1 --batch "$job"
for _ in $(seq 120); do grep -q requeued "$root/job.out" && break; sleep 1; done
grep -E "saved after step|requeued" "$root/job.out"
ls "$work/checkpoints"
saved=$(find "$work/checkpoints" -maxdepth 1 -name "[0-9]*" -printf "%f\n" | sort -n | tail -n 1)
for _ in $(seq 300); do (( $(step) > saved + 40 )) && break; sleep 1; done
echo "requeued and at step $(step): $(scontrol show job "$job" | grep -o 'Restarts=[0-9]*')"
scontrol show job "$job" | grep -q "Restarts=1"
(( $(step) > saved ))
scancel --signal=KILL --full "$job"
for _ in $(seq 60); do [[ -z $(squeue -h -j "$job") ]] && break; sleep 1; done
echo "ok: two tasks saved at step $saved on one signal, were requeued, and went on"
