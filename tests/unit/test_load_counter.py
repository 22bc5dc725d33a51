"""Times between tokens, where several come at once."""

import pytest

from helpers.fake_engine import FakeEngine, create_request, guesser
from router.engine.load_counter import LoadCounter


def test_tokens_of_one_step_share_the_time_since_the_one_before():
    engine, counter = FakeEngine(), LoadCounter(0.0)
    engine.guess = guesser(0, 3, 0.0)
    request = create_request("a", range(6), max_tokens=9)
    counter.arrived(request, 0.0)
    counter.queued(engine.add(request), 0.0)
    for second in (1.0, 3.0, 5.0):  # 1, 4 and 4 tokens
        counter.stepped(engine.step().entries, second)
    totals = counter.totals(5.0)
    assert totals.ttft_s.count == 1
    assert totals.inter_token_s.count == 8
    assert totals.inter_token_s.quantile(0.5) == pytest.approx(0.5, rel=0.1)
    assert (totals.ended, totals.output_tokens) == (1, 9)
    assert (totals.decoded, totals.decode_rows) == (2, 8)  # the last step needs no fifth token
