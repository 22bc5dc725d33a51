"""Guesses in the scheduler: what is granted, kept and rolled back, under a fake model.

That every request gets its tokens whatever is guessed is a law of ``test_scheduler``.
"""

from helpers.fake_engine import FakeEngine, create_request, guesser


def decoding(**settings):
    engine = FakeEngine(**settings)
    engine.add(create_request("a", range(6), max_tokens=20))
    engine.step()
    return engine


def test_right_guesses_save_steps():
    engine = decoding()
    engine.guess = guesser(0, 4, 0.0)
    plans = engine.finish_all()
    assert [len(p.entries[0].draft) for p in plans] == [4, 4, 4, 3]
    assert sum(1 + a for a in (4, 4, 4, 3)) == 19  # the first came with the prompt


def test_rejected_guesses_give_their_blocks_back():
    engine = decoding(block_size=2)
    (sequence,) = engine.sequences
    before = len(sequence.blocks)
    engine.guess = guesser(0, 4, 1.0)
    plan = engine.step()
    assert plan.entries[0].num_tokens == 5
    assert sequence.num_computed == 7
    assert len(sequence.blocks) == 4 == before + 1


def test_guesses_never_cost_a_neighbour_its_token_or_its_blocks():
    engine = FakeEngine(num_blocks=6, max_batched_tokens=8, max_num_seqs=2)  # 5 of 4 tokens
    engine.guess = guesser(0, 5, 1.0)
    for name in ("a", "b"):
        engine.add(create_request(name, range(7), max_tokens=3))
    engine.steps(2)
    plan = engine.step()
    assert not plan.preempted
    assert [e.num_tokens - len(e.draft) for e in plan.entries] == [1, 1]
    assert sum(e.num_tokens for e in plan.entries) <= 8


def test_blocks_of_guesses_that_never_ran_are_not_promised_to_newcomers():
    engine = FakeEngine(num_blocks=6)  # 5 of 4 tokens
    engine.add(create_request("a", range(4), max_tokens=12))
    engine.step()
    engine.guess = lambda sequence: (0,) * 4
    engine.fail_step()  # as in a topology that is retired: it is planned anew
    engine.guess = lambda sequence: ()
    engine.add(create_request("b", range(100, 112), max_tokens=2))
    engine.finish_all()


def test_no_guess_goes_beyond_the_last_token_that_is_wanted():
    engine = FakeEngine()
    engine.add(create_request("a", range(6), max_tokens=3))
    engine.step()
    engine.guess = lambda sequence: (0, 0, 0, 0)
    assert len(engine.step().entries[0].draft) == 1
