"""When to guess, and how deep: a decision now and then, trials where nothing is known any more."""

from __future__ import annotations

from dataclasses import dataclass

from galerne.errors import ConfigError
from router.engine.speculation.decide import Decision, Seconds, decide

MAX_DRAFT_TOKENS = 8
_DECIDE_EVERY = 16  # steps, or when the number of sequences changes
_LINGER = 64  # steps for which a source still follows after guesses have ceased to pay
_FIRST_TRIAL = {True: 512, False: 128}  # steps without guesses before one, if it follows or not
_LAST_TRIAL = 8192  # the wait doubles up to here
_TRIAL = {True: 24, False: 2}  # steps of one: who follows needs new sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationConfig:
    """Limits of guessing."""

    num_draft_tokens: int = 4  # per sequence and step, at most
    is_auto: bool = True  # else as many as may be, always
    min_gain: float = 0.03  # below, a gain is taken for noise

    def __post_init__(self) -> None:
        if not 1 <= self.num_draft_tokens <= MAX_DRAFT_TOKENS:
            problem = f"must be in [1, {MAX_DRAFT_TOKENS}]"
            raise ConfigError("num_draft_tokens", self.num_draft_tokens, problem)
        if not 0 <= self.min_gain < 1:
            raise ConfigError("min_gain", self.min_gain, "must be in [0, 1)")


class Policy:
    """Remembers the last decision. No clock: it counts steps."""

    def __init__(self, config: SpeculationConfig, *, follows: bool) -> None:
        """``follows``: the source must see steps even while it guesses nothing."""
        self._config = config
        self._follows = follows
        self._decision = Decision(config.num_draft_tokens, 0.0)
        self._decided_for = 0  # sequences
        self._age = 0  # steps since
        self._idle = 0  # steps since guesses paid
        self._next_trial = self._wait = _FIRST_TRIAL[follows]  # at that ``_idle``
        self._trial = 0  # steps left of a trial

    @property
    def depth(self) -> int:
        """Guesses per sequence of the newest step."""
        most = self._config.num_draft_tokens
        if not self._config.is_auto or self._trial:
            return most
        return self._decision.num_draft_tokens

    @property
    def must_follow(self) -> bool:
        """Whether a source that follows should see the newest step."""
        return self.depth > 0 or self._idle < _LINGER

    def step(
        self,
        num_sequences: int,
        coverage: float,
        rates: tuple[float, ...],
        step_s: Seconds,
        draft_s: Seconds,
    ) -> int:
        """Guesses per sequence of the next step; arguments as for ``decide``."""
        if not self._config.is_auto:
            return self.depth
        num_sequences = max(1, num_sequences)
        self._age += 1
        if self._age >= _DECIDE_EVERY or num_sequences != self._decided_for:
            self._age, self._decided_for = 0, num_sequences
            min_gain = self._config.min_gain
            self._decision = decide(num_sequences, coverage, rates, step_s, draft_s, min_gain)
        self._trial = max(0, self._trial - 1)
        if self._decision.num_draft_tokens:
            self._idle = self._trial = 0
            self._next_trial = self._wait = _FIRST_TRIAL[self._follows]
            return self.depth
        self._idle += 1
        if self._idle >= self._next_trial:
            self._trial = _TRIAL[self._follows]
            self._wait = min(2 * self._wait, _LAST_TRIAL)
            self._next_trial += self._wait
        return self.depth
