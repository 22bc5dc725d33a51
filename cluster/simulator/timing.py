"""What a simulated gateway's work costs, and where it reports what became of requests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

from cluster.planning.candidate import Candidate
from cluster.planning.costs import Calibration, Scatter
from cluster.planning.shape import ModelShape
from cluster.planning.step import StepWork, step_parts
from galerne.histogram import LogHistogram

StepSeconds = Callable[[StepWork, float], float]
"""(what a step computes, other gateways that are in a step at the same time) -> seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayModel:
    """One gateway: limits of its scheduler, and its times."""

    step_seconds: StepSeconds
    max_num_seqs: int
    max_batched_tokens: int
    max_chunk_tokens: int = 512  # of one sequence in a step
    kv_tokens: int = 1 << 20  # that its cache holds
    block_size: int = 16  # tokens
    request_s: float = 0.0  # of its time for each request, in the step that admits it
    frontend_s: float = 0.0  # on the way of the first token, outside the gateway
    max_model_len: int = 1 << 18


ModelOf = Callable[[Candidate], GatewayModel]


def models(
    shape: ModelShape, calibration: Calibration, seed: int | None = None, **limits: int
) -> ModelOf:
    """Gateways whose steps take what the planner's cost model says (``step_parts``).

    So a prediction and a simulation differ by queueing alone. ``seed``: steps scatter as the
    calibration saw it, each by chance; for gateways that compute every step (``ExactGateway``).
    ``limits``: other fields of ``GatewayModel``, the same for every candidate.
    """
    factor = _scatter(None if seed is None else calibration.scatter, seed)

    def model_of(candidate: Candidate) -> GatewayModel:
        def step_seconds(work: StepWork, peers: float) -> float:
            parts = step_parts(shape, calibration, candidate, work, peers=peers)
            return factor() * sum(parts.values())

        return GatewayModel(
            step_seconds=step_seconds,
            max_num_seqs=candidate.max_num_seqs,
            max_batched_tokens=candidate.max_batched_tokens,
            request_s=calibration.request_s,
            frontend_s=calibration.frontend_s,
            **limits,
        )

    return model_of


def _scatter(scatter: Scatter | None, seed: int | None) -> Callable[[], float]:
    """Lognormal factors of the scatter's median and p95, one for each step."""
    if scatter is None:
        return lambda: 1.0
    chance = random.Random(seed)  # noqa: S311 - simulation
    sigma = math.log(scatter.gap_p95 / scatter.gap_p50) / NormalDist().inv_cdf(0.95)
    return lambda: scatter.gap_p50 * math.exp(sigma * chance.gauss())


class Peers:
    """Gateways that had work when they were last looked at."""

    def __init__(self) -> None:
        self._busy: set[object] = set()

    def besides(self, gateway: object) -> int:
        """Others that have work."""
        return len(self._busy) - (gateway in self._busy)

    def saw(self, gateway: object, *, has_work: bool) -> None:
        """Remember whether a gateway has work."""
        if has_work:
            self._busy.add(gateway)
        else:
            self._busy.discard(gateway)


class Gateway(Protocol):
    """A gateway on the virtual clock. It runs only when it is told to."""

    time_s: float  # end of its last step, when it next looks at its queue

    def add(self, at_s: float, prompt_tokens: int, output_tokens: int) -> None:
        """Queue a request; ``advance(at_s)`` came before."""

    def advance(self, until_s: float) -> None:
        """Begin every step that begins before ``until_s``; the last one may end after it."""

    def reconfigure(self, model: GatewayModel) -> None:
        """Other limits and times from the next step on. The cache's size stays."""

    @property
    def num_waiting(self) -> int:
        """Requests that hold no blocks."""

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""


class Listener(Protocol):
    """Whoever wants to know; results and the window of the autoscaler."""

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""


@dataclass(slots=True)
class Latencies:
    """What became of all requests that came from ``from_s`` on.

    Times are seconds; quantiles are right to 1 %. Inter-token times are of all tokens since then.
    """

    from_s: float = 0.0
    ttft_s: LogHistogram = field(default_factory=LogHistogram)
    inter_token_s: LogHistogram = field(default_factory=LogHistogram)
    completion_s: LogHistogram = field(default_factory=LogHistogram)
    output_tokens: int = 0
    last_end_s: float = 0.0

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""
        if at_s - ttft_s >= self.from_s:
            self.ttft_s.add(ttft_s)

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""
        if at_s >= self.from_s:
            self.inter_token_s.add(seconds, count)

    def completed(self, at_s: float, arrived_s: float, output_tokens: int) -> None:
        """A request was answered."""
        if arrived_s < self.from_s:
            return
        self.completion_s.add(at_s - arrived_s)
        self.output_tokens += output_tokens
        self.last_end_s = max(self.last_end_s, at_s)
