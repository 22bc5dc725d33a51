"""When to guess, and how deep: decisions from what is known, and looks at what is not. Pure.

Both sides of the comparison are measured while serving, so neither may be left to itself: while
guesses pay, a look says now and then what steps without any and with all of them take; while they
do not, a trial says what they would give. Both verify all that is guessed, as what is known, by
which guesses are left out else, may be out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from galerne.errors import ConfigError
from router.engine.speculation.decide import Decision, Seconds, decide

MAX_DRAFT_TOKENS = 8
_DECIDE_EVERY = 16  # steps, or when the number of sequences changes
_LINGER = 16  # steps for which a source still follows after guesses have ceased to pay
_FIRST_TRIAL = {True: 1024, False: 128}  # steps without guesses before one, if it follows or not
_LAST_TRIAL = 8192  # the wait doubles up to here
_TRIAL = {True: 24, False: 3}  # sequences' guesses that make one
_TRIAL_LASTS = 256  # steps at most: who follows has guesses for sequences that begin after it
_LOOK_EVERY = 512  # steps with guesses
_LOOK = 3  # steps of each kind


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


class Known(NamedTuple):
    """What a decision is made from; the first five as ``decide`` takes them."""

    num_sequences: int
    coverage: float
    rates: tuple[float, ...]
    step_s: Seconds
    draft_s: Seconds
    is_measured: Callable[[int], bool]  # whether steps of so many rows were
    num_guessed: int  # sequences with guesses in the step before this one


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
        self._trial = 0  # guesses that are left of a trial
        self._trial_steps = 0  # with guesses, that are left of it
        self._trial_age = 0  # its steps
        self._num_guessing = 0  # steps with guesses since the last look
        self._looks: list[int] = []  # depths of the steps of a look, the next one last
        self._look: int | None = None  # depth of the newest step, if it is one of those

    @property
    def depth(self) -> int:
        """Guesses per sequence of the newest step."""
        most = self._config.num_draft_tokens
        if not self._config.is_auto:
            return most
        if self._look is not None:
            return self._look
        return most if self._is_trying else self._decision.num_draft_tokens

    @property
    def is_trial(self) -> bool:
        """Whether the newest step belongs to a trial."""
        return self._is_trying and self._look is None

    @property
    def begins_trial(self) -> bool:
        """Whether it is the first one of it."""
        return self.is_trial and self._trial_age == 0

    @property
    def takes_all(self) -> bool:
        """Whether the newest step verifies guesses whether they seem to pay or not."""
        return not self._config.is_auto or self._look is not None or self.is_trial

    @property
    def must_follow(self) -> bool:
        """Whether a source that follows should see the newest step."""
        return self.depth > 0 or self._idle < _LINGER

    def step(self, known: Known) -> int:
        """Guesses per sequence of the next step."""
        if not self._config.is_auto:
            return self.depth
        known = known._replace(num_sequences=max(1, known.num_sequences))
        self._look = self._next_look(known)
        if self._look is None:
            self._decide(known)
            self._try(known.num_guessed)
        return self.depth

    def _next_look(self, known: Known) -> int | None:
        """Guesses of the next step if it is made to be measured."""
        if not known.is_measured(known.num_sequences):
            return 0
        self._num_guessing += known.num_guessed > 0
        if self._num_guessing >= _LOOK_EVERY:
            self._num_guessing = 0
            self._looks = [self._config.num_draft_tokens] * _LOOK + [0] * _LOOK
        return self._looks.pop() if self._looks else None

    def _decide(self, known: Known) -> None:
        self._age += 1
        if self._age < _DECIDE_EVERY and known.num_sequences == self._decided_for:
            return
        self._age, self._decided_for = 0, known.num_sequences
        self._decision = decide(*known[:5], self._config.min_gain)

    @property
    def _is_trying(self) -> bool:
        return self._trial > 0 or self._trial_steps > 0

    def _try(self, num_guessed: int) -> None:
        """Begin, go on with, or end a trial."""
        if self._decision.num_draft_tokens:
            self._idle = self._trial = self._trial_steps = 0
            self._next_trial = self._wait = _FIRST_TRIAL[self._follows]
            return
        self._idle += 1
        if self._is_trying:
            self._trial_age += 1
            self._trial -= num_guessed
            self._trial_steps -= num_guessed > 0
            if self._trial_age >= _TRIAL_LASTS:
                self._trial = self._trial_steps = 0
        elif self._idle >= self._next_trial:
            self._trial, self._trial_steps = _TRIAL[self._follows], _LOOK
            self._trial_age = 0
            self._wait = min(2 * self._wait, _LAST_TRIAL)
            self._next_trial = self._idle + self._wait
