"""Settings of every test process."""

import os

# One thread a process: the machine has few cores, and spinning pools beside each other crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
