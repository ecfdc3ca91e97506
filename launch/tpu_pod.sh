#!/usr/bin/env bash
# One task on all hosts of a Cloud TPU slice, from your own machine.
#   bash launch/tpu_pod.sh setup                            copies this commit and installs it
#   bash launch/tpu_pod.sh train --config=configs/lpd_256.py:XXL --workdir=gs://bucket/xxl
# TPU_NAME and ZONE say which slice, PROJECT whose (gcloud's default). The workdir is in a bucket that
# the slice's service account may write, or on storage that all hosts mount. Output comes back here;
# exit code 75 means stopped and saved, run it again.
# DRY_RUN=1 prints the commands instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if (($# == 0)) || [[ -z ${TPU_NAME:-} || -z ${ZONE:-} ]]; then
  echo "usage: TPU_NAME=my-slice ZONE=us-west4-a bash launch/tpu_pod.sh setup|TASK [--config=FILE --workdir=DIR ...]" >&2
  exit 2
fi
where=(--zone="$ZONE" --worker=all)
if [[ -n ${PROJECT:-} ]]; then
  where+=(--project="$PROJECT")
fi

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --command="$1"
}

if [[ $1 == setup ]]; then
  archive=$(mktemp -d)/lpd_jax.tar.gz
  trap 'rm -r "$(dirname "$archive")"' EXIT
  run git archive --format=tar.gz --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:lpd_jax.tar.gz" "${where[@]}"
  on_hosts 'mkdir -p lpd_jax && tar -xzf lpd_jax.tar.gz -C lpd_jax && source lpd_jax/launch/install.sh tpu,gcs'
else
  # The hosts find each other through the metadata server of the TPU VM.
  on_hosts "cd lpd_jax && .venv/bin/python -m lpd_jax $(printf '%q ' "$@")--coordinator=auto"
fi
