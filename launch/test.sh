#!/usr/bin/env bash
# Lint, then the whole test suite (slow and hardware-only tests run by name: -m slow, -m gpu).
#   bash launch/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n "$(nproc)" --dist worksteal "$@"
