#!/usr/bin/env bash
# One task on all GPUs of this machine, in one process.
#   bash launch/gpu_node.sh train --config=configs/lpd_256.py:L --workdir=runs/l
# SIGTERM during training saves and exits with 75: the same command goes on.
# DRY_RUN=1 prints the command instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if (($# == 0)); then
  echo "usage: bash launch/gpu_node.sh TASK --config=FILE --workdir=DIR [--config.field=value ...]" >&2
  exit 2
fi
# JAX takes three quarters of a GPU's memory unless told.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
command=(.venv/bin/python -m lpd_jax "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
source launch/install.sh cuda
exec "${command[@]}" # signals go straight to Python
