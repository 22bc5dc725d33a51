"""Settings of every test process."""

import gc
import logging
import os

import pytest

from galerne.logs import OURS

# One thread a process: the machine has few cores, and spinning pools beside each other crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture
def no_collector():
    """What a test drops must go with its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def loggers():
    """As they were, afterwards: commands that run in this process set them up for themselves."""
    root = logging.getLogger()
    known = [root, *map(logging.getLogger, OURS)]
    handlers, levels = root.handlers[:], [logger.level for logger in known]
    yield
    root.handlers[:] = handlers
    for logger, level in zip(known, levels, strict=True):
        logger.setLevel(level)
