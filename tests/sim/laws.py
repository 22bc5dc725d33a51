"""What must hold in every schedule, and who says so when it does not."""

import enum

import numpy as np

from galerne.errors import GalerneError, ProtocolError, ShardUnavailableError
from sim.violation import Violation

LATE_S = 0.1  # beyond the limit


class Law(enum.Enum):
    """One promise of the exchange."""

    BITS = "every row of a completed call has the bits of its expert"
    ENDS = "every call ends in time: with its rows where a copy lives, else by giving up"
    EPOCHS = "nobody computes or accepts what belongs to an epoch that is not served"
    RELEASED = "a call that is over, and an epoch that is retired, leave nothing behind"
    BUDGET = "rows asked again keep to their budget, beyond what dead shards owe"
    FRAMES = "a frame asks a replica for rows that are missing and that it does not owe"
    REPEATS = "one seed, one history"
    CODE = "no event is answered with an exception"


class CallLaw:
    """What one call must give, and by when."""

    def __init__(self, config, window_s, begun_s, layer, experts, expected):
        """``experts`` that it needs; ``expected`` ``[T, K, H]``."""
        self._config, self._window_s, self._begun_s = config, window_s, begun_s
        self._layer, self._experts, self._expected = layer, experts, expected
        self._looks_since_s = begun_s

    def gateway_stood_still(self, until_s):
        """Nothing could be done for the call before."""
        self._looks_since_s = until_s

    def check_rows(self, rows):
        wrong = np.argwhere((rows.numpy() != self._expected).any(axis=-1))
        if len(wrong):
            where = ", ".join(map(str, wrong[:4].tolist()))
            raise Violation(Law.BITS, f"{len(wrong)} wrong rows, at [token, k] {where}")

    def check_open(self, now_s):
        """It is still away."""
        end_s = max(self._begun_s + self._config.give_up_after_s, self._looks_since_s)
        if now_s > end_s + LATE_S:
            raise Violation(Law.ENDS, f"still open after {now_s - self._begun_s:.3f} s")

    def check_end(self, now_s, joined_s, holders):
        """It ended now, one way or the other; its gateway has waited since ``joined_s``."""
        due_s = max(self._looks_since_s + self._window_s, joined_s)
        if now_s <= due_s:
            return
        for expert in self._experts:
            since_s, window_s = self._looks_since_s, self._window_s
            due_s = max(due_s, holders.answers_by(self._layer, expert, since_s, window_s))
        if now_s > due_s:
            raise Violation(
                Law.ENDS,
                f"ended after {now_s - self._begun_s:.3f} s, when every expert had had a sound "
                f"copy for {self._window_s:.3f} s {now_s - due_s:.3f} s ago",
            )

    def check_error(self, error: GalerneError, now_s, *, may_be_refused):
        waited_s = now_s - self._begun_s
        if isinstance(error, ShardUnavailableError):
            if min(error.waited_s, waited_s) < self._config.give_up_after_s - 1e-6:
                raise Violation(Law.ENDS, f"gave up after {waited_s:.3f} s: {error}")
        elif not (may_be_refused and isinstance(error, ProtocolError) and "epoch" in str(error)):
            raise Violation(Law.ENDS, f"ended with {type(error).__name__}: {error}")
