"""The laws have teeth: each planted bug is caught, by the law that it breaks, within few seeds."""

import pytest

from sim.mutations import MUTATIONS
from sim.repeats import first_violation
from sim.simulation import Simulation

MOST_SEEDS = 300


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(name, monkeypatch, record_property):
    mutation = MUTATIONS[name]
    mutation.plant(monkeypatch)
    first = mutation.first_seed
    seed, violation = first_violation(Simulation, range(first, first + MOST_SEEDS))
    record_property("caught", f"seed {seed}: {violation.law.name}")
    assert violation.law is mutation.law, f"seed {seed}: {violation}"
