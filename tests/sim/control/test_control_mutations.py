"""The laws have teeth: each planted bug is caught, by the law that it breaks, within few seeds."""

import pytest

from sim.control.laws import Violation
from sim.control.mutations import MUTATIONS
from sim.control.simulation import Simulation

MOST_SEEDS = 40


def first_violation(focus):
    for seed in range(MOST_SEEDS):
        try:
            Simulation(seed, focus).run()
        except Violation as violation:
            return seed, violation
    pytest.fail(f"not caught by {MOST_SEEDS} schedules")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(name, monkeypatch, record_property):
    mutation = MUTATIONS[name]
    mutation.plant(monkeypatch)
    seed, violation = first_violation(mutation.focus)
    record_property("caught", f"seed {seed}: {violation.law.name}")
    assert violation.law in mutation.laws, f"seed {seed}: {violation}"
