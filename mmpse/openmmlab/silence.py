"""What others print, out of the way."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from mmengine.logging import MMLogger


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, datasets, metrics and models print and log no tables; warnings are shown.

    MMEngine writes how every single weight is initialised straight into the files of loggers.
    """
    logger = MMLogger.get_current_instance()
    level, handlers = logger.level, logger.handlers
    logger.setLevel(max(level, logging.WARNING))
    logger.handlers = [h for h in handlers if not isinstance(h, logging.FileHandler)]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
