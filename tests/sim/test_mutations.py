"""The laws have teeth: each planted bug is caught, by the law that it breaks, within few seeds."""

import pytest

from sim.laws import Violation
from sim.mutations import MUTATIONS
from sim.simulation import Simulation

MOST_SEEDS = 300


def first_violation(first_seed):
    for seed in range(first_seed, first_seed + MOST_SEEDS):
        try:
            Simulation(seed).run()
        except Violation as violation:
            return seed, violation
    pytest.fail(f"not caught by {MOST_SEEDS} schedules")


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(name, monkeypatch, record_property):
    mutation = MUTATIONS[name]
    mutation.plant(monkeypatch)
    seed, violation = first_violation(mutation.first_seed)
    record_property("caught", f"seed {seed}: {violation.law.name}")
    assert violation.law is mutation.law, f"seed {seed}: {violation}"
