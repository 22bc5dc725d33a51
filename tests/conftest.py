"""Settings of every test process."""

import gc
import logging
import os

import pytest
from hypothesis import HealthCheck, settings

from galerne.logs import OURS

# One thread a process: the machine has few cores, and spinning pools beside each other crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# How long an example takes, or to draw one, says how busy the machine is, and nothing of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


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
