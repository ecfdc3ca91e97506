#!/usr/bin/env bash
# Builds the manual into site/, and fails on any warning.
#   bash launch/docs.sh [mkdocs arguments]
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" docs
export NO_MKDOCS_2_WARNING=1 # an advertisement of its successor
exec .venv/bin/python -m mkdocs build --strict "$@"
