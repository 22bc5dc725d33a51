"""Runs of many seeds, and of the same ones elsewhere; for the tests of both simulations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.violation import Violation

TESTS = Path(__file__).parents[1]


def first_violation(create, seeds):
    """Seed and violation of the first simulation that breaks a law; one must."""
    for seed in seeds:
        try:
            create(seed).run()
        except Violation as violation:
            return seed, violation
    return pytest.fail(f"not caught by {len(seeds)} schedules")


def fingerprints_elsewhere(module, count):
    """What ``fingerprints(range(count))`` of a test module are in another process."""
    code = f"from {module} import fingerprints; print(*fingerprints(range({count})))"
    paths = (TESTS.parent, TESTS.parent / "proto", TESTS)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONHASHSEED": "4242",  # sets of names are walked in another order there
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.split()
