"""Who listens to simulated gateways: the results, the autoscaler's window, the period."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cluster.planning.decision import Measured
from cluster.planning.histogram import LogHistogram
from cluster.planning.load import Load
from cluster.planning.observed import ObservedWindow
from cluster.simulator.result import Quantiles
from cluster.simulator.timing import Latencies, Listener
from cluster.simulator.workload import Arrival


class Tee:
    """Passes what gateways report to several listeners."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""
        for listener in self._listeners:
            listener.first_token(at_s, ttft_s)

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""
        for listener in self._listeners:
            listener.inter_token(at_s, seconds, count)

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""
        for listener in self._listeners:
            listener.completed(at_s, arrived_s, output_tokens)


class WindowListener:
    """Feeds the autoscaler's window."""

    def __init__(self, window: ObservedWindow) -> None:
        self.first_token = window.first_token
        self.inter_token = window.inter_token
        self._window = window

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""
        self._window.ended(at_s, output_tokens)


class SampleListener:
    """Feeds one sample after the other."""

    def __init__(self) -> None:
        self._ttft, self._inter_token = LogHistogram(), LogHistogram()

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""
        self._ttft.add(ttft_s)

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""
        self._inter_token.add(seconds, count)

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""

    def take(self) -> tuple[Quantiles, Quantiles]:
        """Of TTFT and inter-token times since the last call."""
        ttft, inter_token = self._ttft, self._inter_token
        self._ttft, self._inter_token = LogHistogram(), LogHistogram()
        return _quantiles(ttft), _quantiles(inter_token)


def _quantiles(histogram: LogHistogram) -> Quantiles:
    return Quantiles(p50=histogram.quantile(0.5), p95=histogram.quantile(0.95))


@dataclass(slots=True)
class Period:
    """What happened between two commits."""

    start_s: float
    settled_s: float = math.inf  # from when what the time before left behind is gone
    latencies: Latencies = field(default_factory=Latencies)
    settled: LogHistogram = field(default_factory=LogHistogram)  # completions from then on
    _num: int = 0
    _prompt_tokens: int = 0
    _output_tokens: int = 0
    _last_s: float | None = None
    _gaps_s: float = 0.0
    _square_gaps: float = 0.0

    def arrived(self, arrival: Arrival) -> None:
        """A request came."""
        self._num += 1
        self._prompt_tokens += arrival.prompt_tokens
        self._output_tokens += arrival.output_tokens
        if self._last_s is not None:
            self._gaps_s += arrival.at_s - self._last_s
            self._square_gaps += (arrival.at_s - self._last_s) ** 2
        self._last_s = arrival.at_s

    def measured(self, now_s: float) -> Measured:
        """The period until now. Without answers its times are 0."""
        span_s = max(now_s - self.start_s, 1e-9)
        gaps = max(1, self._num - 1)
        mean_gap = self._gaps_s / gaps
        cv2 = self._square_gaps / gaps / mean_gap**2 - 1 if mean_gap else 1.0
        load = Load(
            requests_per_s=self._num / span_s,
            prompt_tokens=self._prompt_tokens / max(1, self._num),
            output_tokens=self._output_tokens / max(1, self._num),
            arrival_cv2=max(0.0, cv2),
        )
        latencies = self.latencies
        return Measured(
            seconds=span_s,
            load=load,
            requests_per_s=latencies.completion_s.count / span_s,
            completion_s=latencies.completion_s.mean or 0.0,
            ttft_p95_s=latencies.ttft_s.quantile(0.95),
            inter_token_p95_s=latencies.inter_token_s.quantile(0.95),
        )


class PeriodListener:
    """Feeds the period that runs; ``period`` is replaced at every commit."""

    def __init__(self, period: Period) -> None:
        self.period = period

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""
        self.period.latencies.first_token(at_s, ttft_s)

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""
        self.period.latencies.inter_token(at_s, seconds, count)

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""
        self.period.latencies.completed(at_s, arrived_s, output_tokens)
        if arrived_s >= self.period.settled_s:
            self.period.settled.add(at_s - arrived_s)
