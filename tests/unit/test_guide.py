"""Reasoning and grammar of an answer: which tokens may come next."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.guided import ARGS, CALLS, END_THINK, EOS, THINK
from router.engine.guide import Guide, GuideError, Marks
from router.engine.rules import AnswerRules, GrammarStart

SIZE = 40
A, B = 38, 39  # text
IS_TEXT = np.arange(SIZE) >= A
MARKS = Marks(THINK, END_THINK, CALLS, EOS, IS_TEXT)


class FakeMatcher:
    """A grammar of one sentence."""

    def __init__(self, *sentence, said=()):
        self.sentence = sentence
        self.said = tuple(said)

    @property
    def is_ended(self):
        return self.said == (*self.sentence, EOS)

    def allowed(self):
        rest = (*self.sentence, EOS)[len(self.said) :]
        if self.said + rest != (*self.sentence, EOS):
            raise GuideError("not of the grammar")
        return only(*rest[:1])

    def advance(self, token_id):
        self.said += (token_id,)

    def clone(self):
        return FakeMatcher(*self.sentence, said=self.said)


def only(*token_ids):
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[list(token_ids)] = True
    return mask


def guide(*sentence, said=(), **rules):
    matcher = FakeMatcher(*sentence) if sentence else None
    made = Guide(AnswerRules(grammar="g" if sentence else "", **rules), MARKS, matcher)
    for token_id in said:
        made.advance(token_id)
    return made


def allowed(made):
    mask = made.allowed()
    return None if mask is None else set(np.flatnonzero(mask).tolist())


def test_grammar_holds_at_once_where_the_model_does_not_reason():
    made = guide(A, B)
    assert allowed(made) == {A}
    for token_id in (A, B):
        made.advance(token_id)
    assert allowed(made) == {EOS}
    assert not made.is_ended
    made.advance(EOS)
    assert made.is_ended


def test_grammar_begins_after_the_reasoning_that_the_model_may_leave_out():
    made = guide(A, may_think=True)
    assert allowed(made) == {A, THINK}
    assert allowed(guide(A, may_think=True, said=[A])) == {EOS}
    made.advance(THINK)
    assert allowed(made) == {A, B, END_THINK}
    for token_id in (A, B, END_THINK):
        made.advance(token_id)
    assert allowed(made) == {A}


def test_reasoning_that_the_prompt_has_begun_goes_on():
    assert allowed(guide(A, is_thinking=True)) == {A, B, END_THINK}
    assert allowed(guide(A, is_thinking=True, said=[B, END_THINK])) == {A}


def test_used_up_budget_closes_the_reasoning_and_keeps_it_closed():
    made = guide(max_thinking_tokens=2, said=[THINK, A])
    assert allowed(made) is None
    made.advance(B)
    assert allowed(made) == {END_THINK}
    made.advance(END_THINK)
    assert allowed(made) == set(range(SIZE)) - {THINK}
    assert not made.is_ended


def test_budget_of_nothing_leaves_no_reasoning():
    assert allowed(guide(A, may_think=True, max_thinking_tokens=0)) == {A}
    assert allowed(guide(max_thinking_tokens=0)) == set(range(SIZE)) - {THINK}
    assert allowed(guide(is_thinking=True, max_thinking_tokens=0)) == {END_THINK}


def test_budget_leaves_a_model_alone_that_does_not_reason():
    assert allowed(guide(max_thinking_tokens=1, said=[A, B, A, B])) is None


@pytest.mark.parametrize("before", [[], [A, B], [THINK, A, END_THINK, B], [THINK, A]])
def test_grammar_of_calls_waits_for_the_first_call(before):
    made = guide(A, ARGS, start=GrammarStart.CALL, has_tools=True, said=before)
    assert allowed(made) is None
    made.advance(CALLS)
    assert allowed(made) == {A}
    for token_id in (A, ARGS, EOS):
        made.advance(token_id)
    assert made.is_ended


def test_without_tools_the_token_of_calls_means_nothing():
    made = guide(max_thinking_tokens=2, said=[THINK, CALLS])
    assert allowed(made) is None
    made.advance(A)
    assert allowed(made) == {END_THINK}


def test_clone_goes_on_alone():
    made = guide(A, B, may_think=True, said=[THINK, A, END_THINK])
    ahead = made.clone()
    ahead.advance(A)
    assert (allowed(made), allowed(ahead)) == ({A}, {B})


def test_token_that_was_not_allowed_is_an_error_of_the_next_place():
    made = guide(A, B)
    made.advance(B)
    with pytest.raises(GuideError):
        made.allowed()


RULES = st.fixed_dictionaries(
    {},
    optional={
        "may_think": st.booleans(),
        "is_thinking": st.booleans(),
        "has_tools": st.booleans(),
        "max_thinking_tokens": st.none() | st.integers(0, 4),
        "start": st.sampled_from(GrammarStart),
    },
)


@settings(max_examples=300)
@given(RULES, st.booleans(), st.randoms(use_true_random=False))
def test_any_answer_can_be_replayed_and_reasons_within_its_budget(rules, has_grammar, random):
    sentence = (A, B, A) if has_grammar else ()
    made, said = guide(*sentence, **rules), []
    num_thinking, is_thinking = 0, rules.get("is_thinking", False)
    while len(said) < 25 and not made.is_ended:
        mask = made.allowed()
        choices = [THINK, END_THINK, CALLS, EOS, A, B, ARGS]
        token_id = random.choice([t for t in choices if mask is None or mask[t]])
        ends = {END_THINK, EOS, *([CALLS] if rules.get("has_tools") else [])}
        num_thinking += is_thinking and token_id not in ends
        is_thinking = token_id == THINK or (is_thinking and token_id not in ends)
        ahead = made.clone()
        for side in (made, ahead):
            side.advance(token_id)
        said.append(token_id)
        again = guide(*sentence, said=said, **rules)
        assert again.is_ended == made.is_ended == ahead.is_ended
        if not made.is_ended:
            assert allowed(again) == allowed(made) == allowed(ahead)
    most = rules.get("max_thinking_tokens")
    assert most is None or num_thinking <= most
