#!/usr/bin/env bash
# Lint and types, then the whole test suite (slow and hardware-only tests run by name: -m slow, -m gpu).
#   bash launch/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" test,dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Large pages: XLA on CPUs allocates and frees its buffers in every step, and page faults cost a third.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec .venv/bin/python -m pytest -n "$(nproc)" --dist worksteal "$@"
