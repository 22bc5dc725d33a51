"""How long a shard may take before its rows are asked of another."""

from __future__ import annotations

from dataclasses import dataclass

from galerne.errors import ConfigError

_MAX_DOUBLINGS = 16  # beyond the cap anyway; 2**1024 is no float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """Limits of the exchange."""

    deadline_factor: float = 8.0  # times the learned service time
    deadline_floor_s: float = 0.25
    deadline_cap_s: float = 5.0
    give_up_after_s: float = 60.0  # rows unanswered for so long fail the step
    resend_share: float = 0.1  # rows resent per row sent, beyond what dead shards owe
    resend_burst_rows: int = 8192
    resend_rows_per_s: float = 512.0

    def __post_init__(self) -> None:
        if not 0 < self.deadline_floor_s <= self.deadline_cap_s < self.give_up_after_s:
            raise ConfigError(
                "exchange.deadline_floor_s",
                self.deadline_floor_s,
                "needs 0 < deadline_floor_s <= deadline_cap_s < give_up_after_s",
            )


class ServiceTime:
    """Learned seconds of a frame on one shard: a moving average per frame and per row."""

    _WEIGHT = 0.1

    def __init__(self, config: ExchangeConfig) -> None:
        self._config = config
        self._frame_s: float | None = None
        self._row_s = 0.0

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn from an answer."""
        if self._frame_s is None:
            self._frame_s, self._row_s = seconds, seconds / max(num_rows, 1)
            return
        self._frame_s += self._WEIGHT * (seconds - self._frame_s)
        self._row_s += self._WEIGHT * (seconds / max(num_rows, 1) - self._row_s)

    def deadline_s(self, num_rows: int, attempt: int) -> float:
        """Seconds to wait for an answer; doubles with every attempt, within floor and cap.

        Before the first answer the cap holds: a cold shard may have to read weights from disk.
        """
        config = self._config
        if self._frame_s is None:
            return config.deadline_cap_s
        predicted = max(self._frame_s, self._row_s * num_rows)
        wait = predicted * config.deadline_factor * 2 ** min(attempt, _MAX_DOUBLINGS)
        return float(min(max(wait, config.deadline_floor_s), config.deadline_cap_s))
