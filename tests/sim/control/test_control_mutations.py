"""The laws have teeth: each planted bug is caught, by the law that it breaks, within few seeds."""

import pytest

from sim.control.mutations import MUTATIONS
from sim.control.simulation import Simulation
from sim.repeats import first_violation

MOST_SEEDS = 40


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_caught(name, monkeypatch, record_property):
    mutation = MUTATIONS[name]
    mutation.plant(monkeypatch)
    seed, violation = first_violation(
        lambda seed: Simulation(seed, mutation.focus), range(MOST_SEEDS)
    )
    record_property("caught", f"seed {seed}: {violation.law.name}")
    assert violation.law in mutation.laws, f"seed {seed}: {violation}"
