#!/usr/bin/env bash
# Makes .venv beside the code and installs lpd_jax in it, once; sourced by the other scripts.
#   source launch/install.sh EXTRAS        e.g. source launch/install.sh test,quant
# With LOCKED=1 in the environment in the versions of requirements.lock, else in any that setup.py allows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${1:-}
if [[ -z $extras ]] && command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
  extras=cuda
fi
if ! [[ -x .venv/bin/python ]]; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "lpd_jax needs Python 3.11 or newer; set PYTHON to one." >&2
    exit 2
  }
  "$python" -m venv .venv
fi
# Installed again only when what is to be installed has changed.
stamp=.venv/installed-${extras:-base}${LOCKED:+-locked}
if ! [[ -f $stamp ]] || [[ setup.py -nt $stamp ]]; then
  .venv/bin/python -m pip install --quiet --upgrade pip
  # Python compiles a module when it is first imported; pip would compile thousands that never are.
  .venv/bin/python -m pip install --quiet --no-compile \
    ${LOCKED:+--constraint requirements.lock} --editable ".${extras:+[$extras]}"
  touch "$stamp"
  echo "installed in .venv; to use it in this shell: source .venv/bin/activate"
fi
