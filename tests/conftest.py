"""Settings of every test process."""

import gc
import os

import pytest

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
