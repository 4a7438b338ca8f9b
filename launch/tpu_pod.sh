#!/usr/bin/env bash
# All workers of a TPU VM slice; run it where gcloud is set up:
#   launch/tpu_pod.sh NAME ZONE --config=configs/mae_vitl_imagenet.py \
#       --config.data.dir=/mnt/bucket/tfds --workdir=/mnt/bucket/runs/a
# A bucket is a folder once it is mounted on every worker (Cloud Storage FUSE). Each worker needs jssl
# in ~/jssl (JSSL_DIR) with `.venv/bin/pip install -e '.[tpu]'` done; JAX finds the other workers from
# the slice's metadata. Starts again what was preempted after saving (exit 75).
set -euo pipefail

name=$1 zone=$2
shift 2
folder=${JSSL_DIR:-jssl}
words=$(printf ' %q' "$@")
while true; do
  code=0
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd $folder && JSSL_DISTRIBUTED=1 .venv/bin/jssl train$words" || code=$?
  if [[ $code != 75 ]]; then
    exit "$code"
  fi
done
