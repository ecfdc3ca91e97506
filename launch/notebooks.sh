#!/usr/bin/env bash
# Runs the notebooks and writes them, with what they show, to docs/notebooks/ for the manual.
#   bash launch/notebooks.sh [notebooks/NAME.ipynb ...]
# They take the models of runs/digits, and train them first where there are none.
source "$(dirname "${BASH_SOURCE[0]}")/install.sh" notebook
if [[ $# == 0 ]]; then
  set -- notebooks/*.ipynb
fi
export TQDM_DISABLE=1 # its bars are no text
.venv/bin/python -m nbconvert --to markdown --execute --output-dir docs/notebooks \
  --TagRemovePreprocessor.enabled=True \
  --TagRemovePreprocessor.remove_all_outputs_tags=remove_output "$@"
rm -f docs/notebooks/*_files/*.jpg # the same pictures as the .png beside them
