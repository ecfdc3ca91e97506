"""Log lines of the command line: short, and above the progress bars instead of inside them."""

import logging

from tqdm import tqdm


def setup(level: int = logging.INFO) -> None:
    """Sends our messages of `level` and above to stderr, as "08:15:02 message".

    Every process of a job calls it once; warnings begin with their level.
    """
    handler = _AboveBars()
    handler.setFormatter(_Short(datefmt="%H:%M:%S"))
    logger = logging.getLogger("lpd_jax")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False  # absl's handler would say it again


class _AboveBars(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as every handler: a message that cannot be shown ends nothing
            self.handleError(record)


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, self.datefmt)} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
