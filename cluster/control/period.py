"""What gateways counted between two changes of topology, to hold a prediction against."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cluster.planning.decision import Measured
from cluster.planning.load import Load
from galerne.histogram import LogHistogram
from router.engine.load_counter import LoadTotals


@dataclass(slots=True)
class Sums:
    """Of many reports' differences."""

    arrivals: int = 0
    admitted: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    output_tokens: int = 0
    ttft_s: LogHistogram = field(default_factory=LogHistogram)
    inter_token_s: LogHistogram = field(default_factory=LogHistogram)

    def add(self, new: LoadTotals) -> None:
        """Add one."""
        for name in ("arrivals", "admitted", "prompt_tokens", "ended", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(new, name))
        self.ttft_s.merge(new.ttft_s)
        self.inter_token_s.merge(new.inter_token_s)

    @property
    def completion_s(self) -> float | None:
        """Mean, by its parts: a first token, and the others that an answer has on average."""
        if not self.ended or self.ttft_s.mean is None:
            return None
        others = max(self.output_tokens / self.ended - 1, 0.0)
        return self.ttft_s.mean + others * (self.inter_token_s.mean or 0.0)


class Period:
    """Since ``start_s``.

    Args:
        start_s: When the topology began to serve.
        settle_s: After which what the time before left behind is gone.
    """

    def __init__(self, start_s: float, settle_s: float) -> None:
        self.start_s = start_s
        self._settled_s = start_s + settle_s
        self._all, self._settled = Sums(), Sums()

    def add(self, new: LoadTotals, now_s: float) -> None:
        """A gateway has counted this lately."""
        self._all.add(new)
        if now_s >= self._settled_s:
            self._settled.add(new)

    def measured(self, now_s: float, lately: Load) -> tuple[Measured, tuple[float | None, int]]:
        """The period until now; mean completion (seconds) and number of the settled answers.

        ``lately``: for what counts alone do not tell, the variation of arrivals and of lengths.
        """
        span_s, sums = max(now_s - self.start_s, 1e-9), self._all
        load = replace(
            lately,
            requests_per_s=sums.arrivals / span_s,
            prompt_tokens=sums.prompt_tokens / max(sums.admitted, 1),
            output_tokens=sums.output_tokens / max(sums.ended, 1),
        )
        measured = Measured(
            seconds=span_s,
            load=load,
            requests_per_s=sums.ended / span_s,
            completion_s=sums.completion_s or 0.0,
            ttft_p95_s=sums.ttft_s.quantile(0.95),
            inter_token_p95_s=sums.inter_token_s.quantile(0.95),
        )
        return measured, (self._settled.completion_s, self._settled.ended)
