#!/usr/bin/env bash
# All GPUs of this host, in one process:
#   launch/gpu_host.sh --config=configs/simclr_imagenet.py --config.data.dir=DATA --workdir=runs/a
# Goes on where it stopped: if the run was asked to stop and has saved (exit 75), it is started again,
# unless it was this script that was told to end.
set -euo pipefail

# JSSL, or the checkout's own installation, or whatever `jssl` is on the path.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jssl=${JSSL:-$here/.venv/bin/jssl}
if [[ ! -x $jssl && -z ${JSSL:-} ]]; then
  jssl=jssl
fi

# Some GPU kernels add in any order; with JSSL_DETERMINISTIC=1 a resume is exact, a little slower.
if [[ "${JSSL_DETERMINISTIC:-0}" == 1 ]]; then
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=true"
fi

stopped=0
trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' TERM INT
while true; do
  "$jssl" train "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  # A signal ends `wait` before the child has saved: wait for it again.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  if [[ $code != 75 || $stopped == 1 ]]; then
    exit "$code"
  fi
done
