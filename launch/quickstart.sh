#!/usr/bin/env bash
# The whole chain on the embedded digits: tokenizer, codes, decoder, samples, report.
#   bash launch/quickstart.sh [--config.seed=1 ...]
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" ""
# Large pages: XLA on CPUs allocates and frees its buffers in every step, and page faults cost a third.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
.venv/bin/python -m lpd_jax pipeline --config=digits --workdir=runs/digits "$@"
echo "next: source .venv/bin/activate && lpd sample --config=digits --workdir=runs/digits --config.sample.labels=3,7"
