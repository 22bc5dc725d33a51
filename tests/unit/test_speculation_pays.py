"""Whether guessing is on where it pays and off where it does not, in worlds of known times."""

from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.clock import VirtualClock
from router.engine.plan import StepEntry, StepPlan, Verified
from router.engine.speculation.acceptance import expected_tokens
from router.engine.speculation.policy import SpeculationConfig
from router.engine.speculation.speculation import Speculation

MOST = 4
SETTLED = 3000  # steps, of which guesses that ceased to pay have a trial or two


@dataclass(frozen=True)
class World:
    """What a step takes, and how often guesses are right."""

    fixed_s: float  # a step
    row_s: float  # each of its rows
    draft_s: float  # guesses of a step
    right: float  # share of right guesses
    sequences: int = 1
    answer: int = 64  # tokens; then another sequence begins

    def speed(self, depth):
        """Tokens a second with so many guesses for each."""
        rows = self.sequences * (1 + depth)
        seconds = self.fixed_s + rows * self.row_s + (self.draft_s if depth else 0.0)
        return self.sequences * expected_tokens((self.right,) * MOST, depth) / seconds

    @property
    def best(self):
        """The most that any number of guesses gives."""
        return max(map(self.speed, range(MOST + 1)))


class Seq:
    """As much of a sequence as guesses see."""

    is_finished = False
    request = SimpleNamespace(sampling=SimpleNamespace(speculative=True))

    def __init__(self):
        self.num = 0  # tokens
        self.seen = 0  # of them, by a source that follows


class Source:
    """Takes its time; one that follows has nothing for who began while it rested."""

    name = "made up"

    def __init__(self, clock, *, follows):
        self.clock, self.follows = clock, follows
        self.world = None

    def reach(self, sequence, most):
        return most if not self.follows or sequence.seen == sequence.num else 0

    def draft(self, sequences, most):
        self.clock.move_to(self.clock.now_s() + self.world.draft_s)
        return {s: (0,) * most for s in sequences}

    def follow(self, plan):
        for entry in plan.entries:
            if entry.sequence.seen == entry.start:
                entry.sequence.seen = entry.sequence.num

    def pass_over(self, plan):
        pass

    def forget_ended(self):
        pass


class Engine:
    """Runs steps of a world on a clock of its own."""

    def __init__(self, world, *, follows, seed=1):
        self.clock, self.rng = VirtualClock(), Random(seed)
        self.source = Source(self.clock, follows=follows)
        config = SpeculationConfig(num_draft_tokens=MOST)
        self.guessing = Speculation(self.source, config, self.clock)
        self.sequences = []
        self.enter(world)

    def enter(self, world):
        self.world = self.source.world = world
        self.sequences = [Seq() for _ in range(world.sequences)]

    def run(self, num_steps):
        """Tokens a second over so many steps."""
        began_s, tokens = self.clock.now_s(), 0
        for _ in range(num_steps):
            tokens += self.step()
        return tokens / (self.clock.now_s() - began_s)

    def step(self):
        drafts = self.guessing.drafts(lambda: self.sequences)
        entries = tuple(
            StepEntry(s, s.num, 1 + len(drafts.get(s, ())), True, drafts.get(s, ()))
            for s in self.sequences
        )
        rows = sum(entry.num_tokens for entry in entries)
        plan = StepPlan(entries=entries, preempted=(), num_tokens=rows, num_samples=len(entries))
        seconds = self.world.fixed_s + rows * self.world.row_s
        self.clock.move_to(self.clock.now_s() + seconds)
        verified = [Verified(entry, self.num_right(entry.draft)) for entry in entries]
        for entry, right in verified:
            entry.sequence.num += 1 + right
        self.guessing.ran(plan, verified, seconds * self.rng.uniform(0.95, 1.05))
        self.sequences = [Seq() if s.num >= self.world.answer else s for s in self.sequences]
        return sum(1 + right for _, right in verified)

    def num_right(self, draft):
        return next(
            (i for i in range(len(draft)) if self.rng.random() > self.world.right), len(draft)
        )


worlds = st.builds(
    World,
    fixed_s=st.floats(0.0, 2e-3),
    row_s=st.floats(1e-5, 1e-3),
    draft_s=st.just(0.0),
    right=st.floats(0.0, 0.95),
    sequences=st.sampled_from([1, 3, 16]),
)


@given(worlds, st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=25, deadline=None)
def test_it_is_nearly_as_quick_as_the_best_number_of_guesses(world, share, follows):
    """Guesses take at most what the step does that they save."""
    world = replace(world, draft_s=share * (world.fixed_s + world.row_s))
    engine = Engine(world, follows=follows)
    engine.run(SETTLED)
    assert engine.run(SETTLED) >= 0.9 * world.best


MEMORY_BOUND = World(fixed_s=1e-3, row_s=1e-5, draft_s=1e-4, right=0.8)
SLOW_ROWS = replace(MEMORY_BOUND, fixed_s=0.0, row_s=1e-3)
WRONG = replace(MEMORY_BOUND, right=0.02)


@pytest.mark.parametrize("follows", [False, True])
def test_a_source_that_was_wrong_for_long_is_believed_again_when_it_is_right(follows):
    engine = Engine(WRONG, follows=follows)
    assert engine.run(20_000) >= 0.97 * WRONG.best
    engine.enter(MEMORY_BOUND)
    engine.run(10_000)
    assert engine.run(2000) >= 0.9 * MEMORY_BOUND.best


@pytest.mark.parametrize("follows", [False, True])
def test_times_of_another_topology_are_forgotten(follows):
    engine = Engine(SLOW_ROWS, follows=follows)
    assert engine.run(20_000) >= 0.97 * SLOW_ROWS.best
    engine.guessing.renew()
    engine.enter(MEMORY_BOUND)
    engine.run(100)
    assert engine.run(1000) >= 0.9 * MEMORY_BOUND.best


@pytest.mark.parametrize("follows", [False, True])
def test_steps_that_became_slower_by_rows_end_it_and_quicker_ones_bring_it_back(follows):
    """Without a word of it, as when another program takes the cores."""
    engine = Engine(MEMORY_BOUND, follows=follows)
    engine.run(2000)
    engine.enter(SLOW_ROWS)
    engine.run(2000)
    assert engine.run(2000) >= 0.97 * SLOW_ROWS.best
    engine.enter(MEMORY_BOUND)
    engine.run(10_000)
    assert engine.run(2000) >= 0.9 * MEMORY_BOUND.best
