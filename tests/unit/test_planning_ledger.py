"""The ledger keeps an outcome with its decision, also if it was found beside later ones."""

from cluster.planning.decision import Measured
from cluster.planning.ledger import _MAX_RECORDS, DecisionLedger, judgement
from helpers.explained import decide
from helpers.scaling import create_autoscaler, create_load, predict

AUTOSCALER = create_autoscaler()


def measured_of(decision, rate=60.0, seconds=60.0):
    load = create_load(rate)
    gives = predict(decision.target, load)
    return Measured(
        seconds=seconds,
        load=load,
        requests_per_s=gives.requests_per_s,
        completion_s=gives.completion_s,
        ttft_p95_s=None,
        inter_token_p95_s=None,
    )


def in_force(decision):
    ledger = DecisionLedger()
    ledger.add(decision, 1.0)
    ledger.committed()
    return ledger


def test_an_outcome_belongs_to_the_decision_that_was_in_force_when_it_was_measured():
    decision = decide(60.0)
    ledger = in_force(decision)
    number, led = ledger.in_force
    measured = measured_of(decision)
    ledger.add(decide(2.0), 2.0)
    ledger.committed()
    settled = (measured.completion_s / 1.25, 100)
    found = judgement(AUTOSCALER, led, decision.target, measured, settled)
    assert ledger.note(number, found).decision is decision
    assert [record.outcome is None for _, _, record in ledger.records] == [False, True]
    assert abs(ledger.calibration_error - 0.25) < 1e-9


def test_of_a_forgotten_decision_only_the_error_is_kept():
    decision = decide(60.0)
    ledger = in_force(decision)
    number, led = ledger.in_force
    for _ in range(_MAX_RECORDS):
        ledger.add(decision, 2.0)
    assert ledger.in_force is None
    measured = measured_of(decision)
    found = judgement(AUTOSCALER, led, decision.target, measured, (measured.completion_s, 100))
    assert ledger.note(number, found) is None
    assert all(record.outcome is None for _, _, record in ledger.records)
    assert ledger.calibration_error == 0


def test_too_few_answers_or_nothing_that_served_say_nothing():
    decision = decide(60.0)
    few = measured_of(decision, seconds=0.1)
    for current, measured in ((decision.target, few), (None, measured_of(decision))):
        found = judgement(AUTOSCALER, decision, current, measured, (1.0, 100))
        assert (found.error, found.outcome) == (None, None)
    ledger = in_force(decision)
    ledger.interrupted()
    assert ledger.in_force is None
    alone = judgement(AUTOSCALER, None, decision.target, measured_of(decision), (1.0, 100))
    assert alone.error is not None
    assert ledger.note(None, alone) is None
