"""What a run on a GPU has shown, kept in deploy/gpu-results.json."""

import time

import pytest

from helpers.gpu_results import TESTS, machine, write

_began = time.monotonic()
_outcomes = {}


def pytest_runtest_logreport(report):
    """The worst of set-up, call and tear-down."""
    before = _outcomes.get(report.nodeid)
    if before is None or (before == "passed" and report.outcome != "passed"):
        _outcomes[report.nodeid] = report.outcome


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Nothing is written where there is no GPU, or where no test of this folder ran."""
    here = machine()
    if here is None or not any("gpu/" in name for name in _outcomes):
        return
    kinds = ("passed", "failed", "skipped")
    counts = {kind: sum(o == kind for o in _outcomes.values()) for kind in kinds}
    failed = sorted(name for name, outcome in _outcomes.items() if outcome == "failed")
    seconds = round(time.monotonic() - _began, 1)
    write(TESTS, {**here, "exit_status": int(exitstatus), **counts, "failures": failed,
                  "seconds": seconds})  # fmt: skip
