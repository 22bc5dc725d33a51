"""The laws of the control plane, over seeded schedules in virtual time.

One seed: ``GALERNE_SIM_SEED=1234 python -m pytest -q tests/sim/control/test_control_sim.py``; more
of them: ``GALERNE_SIM_SCHEDULES=5000``; a longer history of a failure: ``GALERNE_SIM_TAIL=3000``.
"""

import os
from collections import Counter

import pytest

from sim.control.focus import FOCUSES
from sim.control.laws import Law, Violation
from sim.control.schedule import FaultKind, Finale, Victim
from sim.control.simulation import Simulation
from sim.repeats import fingerprints_elsewhere

NUM_SCHEDULES = int(os.environ.get("GALERNE_SIM_SCHEDULES", "80"))
ONE_SEED = os.environ.get("GALERNE_SIM_SEED")
NUM_TWICE = 3  # of them are run again
NUM_FOCUSED = 4  # for each focus
COMMAND = "GALERNE_SIM_SEED={} python -m pytest -q tests/sim/control/test_control_sim.py"


def run(seed):
    try:
        return Simulation(seed).run()
    except Violation as violation:
        pytest.fail(f"{violation}\n\nAgain: {COMMAND.format(seed)}", pytrace=False)


def fingerprints(seeds):
    return [Simulation(seed).run().fingerprint for seed in seeds]


@pytest.mark.timeout(max(120, NUM_SCHEDULES * 3))
@pytest.mark.skipif(ONE_SEED is not None, reason="one seed is asked for")
def test_every_schedule_keeps_the_laws_and_together_they_meet_every_fault():
    seen = Counter()
    for seed in range(NUM_SCHEDULES):
        outcome = run(seed)
        seen.update(outcome.seen)
        if seed < NUM_TWICE:
            again = run(seed).fingerprint
            assert again == outcome.fingerprint, f"{Law.REPEATS}: {COMMAND.format(seed)}"
    print(NUM_SCHEDULES, "schedules:", dict(seen))
    if NUM_SCHEDULES < 50:
        return
    wanted = [*FaultKind, *Finale, *Victim, "streams", "streams that failed", "refused"]
    wanted += ["committed", "undone while starting", "undone while preparing"]
    wanted += ["undone while shadowing"]
    assert not [what for what in wanted if not seen[what]], "never met"


@pytest.mark.skipif(ONE_SEED is not None, reason="one seed is asked for")
@pytest.mark.parametrize("what", FOCUSES)
def test_what_few_schedules_meet_keeps_the_laws_too(what):
    for seed in range(NUM_FOCUSED):
        try:
            Simulation(seed, FOCUSES[what]).run()
        except Violation as violation:
            pytest.fail(f"seed {seed}, {what}: {violation}", pytrace=False)


@pytest.mark.skipif(ONE_SEED is None, reason="no seed is asked for")
def test_the_seed_that_is_asked_for():
    seed = int(ONE_SEED or 0)
    assert run(seed).fingerprint == run(seed).fingerprint


@pytest.mark.skipif(ONE_SEED is not None, reason="one seed is asked for")
def test_another_process_writes_the_same_history():
    assert fingerprints_elsewhere("sim.control.test_control_sim", 2) == fingerprints(range(2))
