"""Guessing as the engine runs it: one source, what it costs here, and whether it pays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence

from galerne.clock import Clock
from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan, Verified
from router.engine.sequence import Sequence
from router.engine.speculation.acceptance import Acceptance, Tally
from router.engine.speculation.costs import CostByRows
from router.engine.speculation.decide import allot
from router.engine.speculation.grant import NO_DRAFTS, Drafts
from router.engine.speculation.policy import Known, Policy, SpeculationConfig
from router.engine.speculation.port import DraftSource

logger = logging.getLogger(__name__)

_CLEAR_EVERY = 16  # steps
_COVERAGE_NEWEST = 0.05


class Speculation:
    """Implements ``Drafting``. ``is_on`` may be changed between two steps."""

    def __init__(self, source: DraftSource, config: SpeculationConfig, clock: Clock) -> None:
        self.is_on = True
        self.acceptance = Acceptance(config.num_draft_tokens)
        self.num_drafted = 0
        self.num_accepted = 0
        self._source = source
        self._config = config
        self._clock = clock
        self.renew()
        self.coverage = 1.0
        self._num_decoding = 0
        self._num_guessed = 0  # sequences with guesses in the newest step
        self._num_steps = 0
        self._tallies: dict[Sequence, Tally] = {}
        self._reported = [0, 0]

    @property
    def depth(self) -> int:
        """Guesses per sequence of the newest step; 0 while they do not pay."""
        return self._policy.depth if self.is_on else 0

    # -- Drafting ----------------------------------------------------------------------------

    def drafts(self, decoding: Callable[[], AbstractSequence[Sequence]]) -> Drafts:
        """See ``Drafting``."""
        if not self.is_on:
            self._num_guessed = 0
            return NO_DRAFTS
        began_s, sequences = self._clock.now_s(), decoding()
        self._num_decoding = max(1, len(sequences))
        depth = self._policy.step(self._known(len(sequences)))
        self._num_guessed = 0
        if self._policy.begins_trial:
            self.acceptance.doubt()
        willing = [s for s in sequences if depth and s.request.sampling.speculative]
        if not willing:
            return NO_DRAFTS
        try:
            made, is_made = self._made(willing, len(sequences), depth)
        except Exception:  # a border: guesses must not cost anybody an answer
            logger.exception("speculation_failed source=%s", self._source.name)
            self.is_on = False
            return NO_DRAFTS
        if is_made:
            self._draft_costs[depth].observe(len(sequences), self._clock.now_s() - began_s)
        self._num_guessed = len(made)
        return made

    def ran(self, plan: StepPlan, verified: AbstractSequence[Verified], seconds: float) -> None:
        """See ``Drafting``."""
        is_decode = bool(plan.entries) and all(entry.is_decode for entry in plan.entries)
        if is_decode:
            self.step_costs.observe(plan.num_tokens, seconds)
        if self._num_guessed:
            for entry, num_accepted in verified:
                if entry.draft:
                    self._count(entry.sequence, len(entry.draft), num_accepted)
        try:
            self._follow(plan, is_decode=is_decode)
        except Exception:  # as above
            logger.exception("speculation_failed source=%s", self._source.name)
            self.is_on = False
        self._clear()

    def renew(self) -> None:
        """See ``Drafting``."""
        self.step_costs = CostByRows()
        self._policy = Policy(self._config, follows=self._source.follows)
        most = self._config.num_draft_tokens
        self._draft_costs = {k: CostByRows() for k in range(1, most + 1)}
        self._follow_costs = CostByRows()

    def report(self, metrics: EngineMetrics) -> None:
        """See ``Drafting``."""
        name, before = self._source.name, self._reported
        self._reported = [self.num_drafted, self.num_accepted]
        metrics.drafted.labels(name).inc(self._reported[0] - before[0])
        metrics.accepted.labels(name).inc(self._reported[1] - before[1])
        metrics.acceptance.labels(name).set(self.acceptance.rates[0])
        metrics.num_draft_tokens.set(self.depth)

    # -- what it does of that -----------------------------------------------------------------

    def draft_s(self, num_guesses: int) -> float:
        """What so many guesses per sequence cost besides the step, for the newest number of them.

        Depths that were never made count as the deepest below them that was.
        """
        known = (
            self._draft_costs[k].seconds(self._num_decoding) for k in range(num_guesses, 0, -1)
        )
        made_s = next((seconds for seconds in known if seconds is not None), 0.0)
        return made_s + (self._follow_costs.seconds(self._num_decoding) or 0.0)

    def _known(self, num_sequences: int) -> Known:
        return Known(
            num_sequences,
            self.coverage,
            self.acceptance.rates,
            self.step_costs.seconds,
            self.draft_s,
            self.step_costs.is_measured,
            self._num_guessed,
        )

    def _made(
        self, willing: AbstractSequence[Sequence], num_sequences: int, depth: int
    ) -> tuple[Drafts, bool]:
        """Guesses that are worth verifying, and whether any were made."""
        reached = [s for s in willing if self._source.reach(s, depth)]
        made = self._source.draft(reached, depth) if reached else {}
        # A trial finds sequences that began before it, whom a source that follows does not know.
        if not (self._policy.is_trial and self._source.follows):
            self.coverage += _COVERAGE_NEWEST * (len(made) / len(willing) - self.coverage)
        if self._policy.takes_all or not made:
            return made, bool(made)
        lengths = [len(draft) for draft in made.values()]
        rates = [self.acceptance.rates_of(self._tallies.get(sequence)) for sequence in made]
        counts = allot(lengths, rates, num_sequences, self.step_costs.seconds)
        pairs = zip(made.items(), counts, strict=True)
        return {sequence: draft[:count] for (sequence, draft), count in pairs if count}, True

    def _count(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        own = self._tallies.setdefault(sequence, Tally())
        self.acceptance.verified(num_drafted, num_accepted, own)
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted

    def _follow(self, plan: StepPlan, *, is_decode: bool) -> None:
        if not (self._source.follows and self.is_on and self._policy.must_follow):
            self._source.pass_over(plan)
            return
        began = self._clock.now_s()
        self._source.follow(plan)
        if is_decode:
            self._follow_costs.observe(len(plan.entries), self._clock.now_s() - began)

    def _clear(self) -> None:
        self._num_steps += 1
        if self._num_steps % _CLEAR_EVERY == 0:
            self._source.forget_ended()
            for sequence in [s for s in self._tallies if s.is_finished]:
                del self._tallies[sequence]
