"""How often guesses are right: running shares of a source, and of each sequence."""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence

_PRIOR = 0.6  # of a source that was never tried: it gets its chance
_PRIOR_WEIGHT = 4.0
_KEEP = 0.995  # of the source's counts, per verified draft
_OLD_WEIGHT = 8.0  # guesses for which old counts stand where they are doubted
_SEQUENCE_WEIGHT = 12.0  # guesses of its own after which a sequence is known as well as its source
_SEQUENCE_KEEP = 0.95


class Tally:
    """Counts of guesses that were reached and that were right, the newest counting most."""

    __slots__ = ("reached", "right")

    def __init__(self, right: float = 0.0, reached: float = 0.0) -> None:
        self.right = right
        self.reached = reached

    def add(self, num_right: int, num_reached: int, keep: float) -> None:
        """Count some more."""
        self.right = self.right * keep + num_right
        self.reached = self.reached * keep + num_reached


class Acceptance:
    """Shares by place in the draft: the second guess counts only where the first was right."""

    def __init__(self, most: int) -> None:
        """``most``: guesses of one draft."""
        self._places = [Tally(_PRIOR * _PRIOR_WEIGHT, _PRIOR_WEIGHT) for _ in range(most)]

    @property
    def rates(self) -> tuple[float, ...]:
        """Share of right guesses by place, given that all before it were right."""
        return tuple(tally.right / tally.reached for tally in self._places)

    def rates_of(self, own: Tally | None) -> tuple[float, ...]:
        """The same for a sequence: drawn towards how its own guesses did."""
        if own is None or not own.reached:
            return self.rates
        w = _SEQUENCE_WEIGHT
        return tuple((w * rate + own.right) / (w + own.reached) for rate in self.rates)

    def doubt(self) -> None:
        """What is known is old: what comes back next soon counts more."""
        for tally in self._places:
            if tally.reached > _OLD_WEIGHT:
                tally.right *= _OLD_WEIGHT / tally.reached
                tally.reached = _OLD_WEIGHT

    def verified(self, num_drafted: int, num_accepted: int, own: Tally) -> None:
        """A draft came back; ``own`` is its sequence's tally."""
        num_reached = min(num_accepted + 1, num_drafted)
        for place, tally in enumerate(self._places[:num_reached]):
            tally.add(int(place < num_accepted), 1, _KEEP)
        own.add(num_accepted, num_reached, _SEQUENCE_KEEP)


def expected_tokens(rates: AbstractSequence[float], num_guesses: int) -> float:
    """Tokens that a step gives a sequence with so many guesses: 1 + a1 + a1 a2 + ...

    Source: Leviathan et al., arXiv:2211.17192, equation 1, for shares that differ by place.
    """
    total, reached = 1.0, 1.0
    for rate in rates[:num_guesses]:
        reached *= rate
        total += reached
    return total
