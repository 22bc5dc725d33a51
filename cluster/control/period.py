"""What gateways counted between two changes of topology, to hold a prediction against."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from cluster.planning.candidate import Candidate
from cluster.planning.decision import Measured
from cluster.planning.load import Guessing, Load
from cluster.planning.observed import guessing_of
from cluster.planning.refresh import ObservedSteps
from cluster.planning.step import StepWork
from galerne.histogram import LogHistogram
from router.engine.load_counter import DRAFT_PART, IMAGE_PART, LoadTotals

_COUNTS = (
    *("arrivals", "admitted", "prompt_tokens", "ended", "output_tokens"),
    *("steps", "decoded", "decode_rows"),
)
_MODEL = "model"  # the timer around whole passes
_MIN_STEPS = 200  # below which their mean says little


@dataclass(slots=True)
class Sums:
    """Of many reports' differences."""

    arrivals: int = 0
    admitted: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    output_tokens: int = 0
    steps: int = 0
    decoded: int = 0
    decode_rows: int = 0
    seconds_by_part: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ttft_s: LogHistogram = field(default_factory=LogHistogram)
    inter_token_s: LogHistogram = field(default_factory=LogHistogram)

    def add(self, new: LoadTotals) -> None:
        """Add one."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(new, name))
        for part, seconds in new.seconds_by_part.items():
            self.seconds_by_part[part] += seconds
        self.ttft_s.merge(new.ttft_s)
        self.inter_token_s.merge(new.inter_token_s)

    def observed_steps(self, candidate: Candidate, span_s: float) -> ObservedSteps:
        """Of one gateway of ``candidate``, on average, in ``span_s`` seconds; one step at least."""
        prompt = self.prompt_tokens / max(self.admitted, 1)
        output = self.output_tokens / max(self.ended, 1)
        busy = self.seconds_by_part[_MODEL] / max(span_s, 1e-9) / candidate.gateways
        return ObservedSteps(
            candidate=candidate,
            work=StepWork(
                num_decoding=self.decoded / self.steps,
                context=prompt + output / 2,
                num_prefill=self.prompt_tokens / self.steps,
                prefill_context=prompt / 2,
                guessing=self.guessing,
            ),
            num_steps=self.steps,
            seconds_by_part=self.seconds_by_part,
            peers=(candidate.gateways - 1) * min(busy, 1.0),
        )

    @property
    def guessing(self) -> Guessing:
        """What guesses cost and gave; a timer's seconds of a step that makes none are no cost."""
        tokens, seconds = self.inter_token_s.count, self.seconds_by_part[DRAFT_PART]
        return guessing_of(self.decoded, self.decode_rows, tokens, seconds)

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
        self.sums, self._settled = Sums(), Sums()
        self._fresh, self._fresh_s = Sums(), self._settled_s

    def add(self, new: LoadTotals, now_s: float) -> None:
        """A gateway has counted this lately."""
        self.sums.add(new)
        if now_s >= self._settled_s:
            self._settled.add(new)
            self._fresh.add(new)

    def take_steps(self, candidate: Candidate, now_s: float) -> ObservedSteps | None:
        """Steps since it was last asked for; None, and they are kept, while they are few."""
        if self._fresh.steps < _MIN_STEPS:
            return None
        taken, since_s = self._fresh, self._fresh_s
        self._fresh, self._fresh_s = Sums(), now_s
        return taken.observed_steps(candidate, now_s - since_s)

    def measured(self, now_s: float, lately: Load) -> tuple[Measured, tuple[float | None, int]]:
        """The period until now; mean completion (seconds) and number of the settled answers.

        ``lately``: for what counts alone do not tell, the variation of arrivals and of lengths.
        """
        span_s, sums = max(now_s - self.start_s, 1e-9), self.sums
        load = replace(
            lately,
            requests_per_s=sums.arrivals / span_s,
            prompt_tokens=sums.prompt_tokens / max(sums.admitted, 1),
            output_tokens=sums.output_tokens / max(sums.ended, 1),
            image_s=sums.seconds_by_part[IMAGE_PART] / max(sums.admitted, 1),
            guessing=sums.guessing,
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
