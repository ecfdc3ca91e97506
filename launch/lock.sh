#!/usr/bin/env bash
# Writes requirements.lock: the versions that are in .venv, of which the suite has just passed.
#   bash launch/test.sh && bash launch/lock.sh
# LOCKED=1 before any script of launch/ installs those versions, as CI does on the oldest Python.
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" test,dev
{
  echo "# Versions that the suite passed with, by launch/lock.sh. Python $(.venv/bin/python -c \
    'import platform; print(platform.python_version(), platform.system(), platform.machine())')"
  .venv/bin/python -m pip freeze --all --exclude pip --exclude-editable
} > requirements.lock
