"""Task: the whole chain, from images to a report. The only task that runs others."""

import jax
from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.evaluation import report
from lpd_jax.tasks import check, encode, evaluate, sample, train, train_tokenizer


def run(config: ConfigDict, workdir: storage.Where) -> dict:
    """Runs every task that is not yet done in `workdir`; returns the report.

    Raises:
        InputError: anything in the config cannot be; before the first of them starts.
    """
    check.config(config, "pipeline")
    train_tokenizer.run(config, workdir)
    encode.run(config, workdir)
    train.run(config, workdir)
    sample.run(config, workdir)
    figures = evaluate.run(config, workdir)
    if jax.process_index() == 0:
        page = storage.path(workdir) / "report/report.html"
        print(f"\n{report.table(figures)}\n\nreport: {page}")
    return figures
