"""What an engine says of its load: counters since it began, so that a lost report loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from galerne.histogram import LogHistogram
from router.engine.plan import StepEntry
from router.engine.request import FinishReason, GenerationRequest
from router.engine.sequence import Sequence

_KEPT_SECONDS = 60  # whose arrivals are told apart: so much silence blurs no burst

# The engine's timers of what belongs to requests, not to steps.
IMAGE_PART, DRAFT_PART = "vision", "draft"
_SUMS = (
    *("arrivals", "admitted", "prompt_tokens", "ended", "output_tokens", "output_squares"),
    *("steps", "decoded", "decode_rows"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTotals:
    """Sums since an engine began. What is counted are choices: each is scheduled by itself.

    One that moved here from another gateway has arrived there, and ends here with all its tokens.
    """

    age_s: float = 0.0  # of the engine; the later report has the higher one
    arrivals: int = 0
    arrivals_by_second: Mapping[int, int] = field(default_factory=dict)  # of age; the last ones
    admitted: int = 0  # arrivals that have begun, so that the prefix cache was asked
    prompt_tokens: int = 0  # of those: what the cache did not hold
    ended: int = 0  # for whatever reason, but for the engine's own end
    output_tokens: int = 0  # of those
    output_squares: int = 0
    ttft_s: LogHistogram = field(default_factory=LogHistogram)  # until a first token went out
    inter_token_s: LogHistogram = field(default_factory=LogHistogram)
    steps: int = 0
    decoded: int = 0  # tokens of those steps that came behind another; of guesses none is counted
    decode_rows: int = 0  # that were computed for these: with all guesses, right or wrong
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0  # now
    running: int = 0  # now
    parked: int = 0  # now: streams, ended or not, that are kept for a client to come back

    def since(self, earlier: LoadTotals) -> LoadTotals:
        """What has been added to an earlier report of the same engine."""
        sums = {name: getattr(self, name) - getattr(earlier, name) for name in _SUMS}
        seconds = earlier.seconds_by_part
        return replace(
            self,
            **sums,
            arrivals_by_second={
                second: count - earlier.arrivals_by_second.get(second, 0)
                for second, count in self.arrivals_by_second.items()
            },
            ttft_s=self.ttft_s.since(earlier.ttft_s),
            inter_token_s=self.inter_token_s.since(earlier.inter_token_s),
            seconds_by_part={p: s - seconds.get(p, 0.0) for p, s in self.seconds_by_part.items()},
        )


class LoadCounter:
    """Counts an engine's load. ``arrived`` and ``totals`` from any thread, the rest from its own.

    Costs a look-up per token, and a logarithm per step for all tokens whose forerunners went out
    together.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._lock = threading.Lock()  # a report is of one moment
        self._arrived_s: dict[Sequence, float] = {}  # that have no token yet
        # When the last token went out, and the how-manieth it was.
        self._last: dict[Sequence, tuple[float, int]] = {}
        self._arrivals = 0
        self._by_second: dict[int, int] = {}
        self._ended = 0
        self._output_tokens = 0
        self._output_squares = 0
        self._decoded = self._decode_rows = 0
        self._ttft_s = LogHistogram()
        self._inter_token_s = LogHistogram()

    def arrived(self, request: GenerationRequest, now_s: float) -> None:
        """A request was let in."""
        if request.resumed:
            return
        num_choices = len(request.open_choices)
        second = int(now_s - self._start_s)
        with self._lock:
            self._arrivals += num_choices
            if second not in self._by_second and len(self._by_second) == _KEPT_SECONDS:
                del self._by_second[min(self._by_second)]
            self._by_second[second] = self._by_second.get(second, 0) + num_choices

    def queued(self, sequences: Iterable[Sequence], arrived_s: float) -> None:
        """What arrived waits to be scheduled."""
        for sequence in sequences:
            if not sequence.request.resumed:
                self._arrived_s[sequence] = arrived_s

    def refused(self, request: GenerationRequest) -> None:
        """What arrived cannot be served here: it ends without a token."""
        if not request.resumed:
            with self._lock:
                self._ended += len(request.open_choices)

    def stepped(self, entries: Iterable[StepEntry], now_s: float) -> None:
        """The tokens of a step went out. Those that ``samples`` have some, or ended in an error.

        Of several at once, each is taken to have come after an equal part of the time.
        """
        arrived_s, last = self._arrived_s, self._last
        # Tokens by when their forerunners went out, and how many went out at once.
        gaps: dict[tuple[float, int], int] = {}
        ended: list[Sequence] = []
        with self._lock:
            for entry in entries:
                sequence = entry.sequence
                reason = sequence.finish_reason
                if entry.samples and reason is not FinishReason.ERROR:
                    before = last.get(sequence)
                    if before is not None:
                        step = before[0], max(1, sequence.num_generated - before[1])
                        gaps[step] = gaps.get(step, 0) + step[1]
                        self._decoded += 1
                        self._decode_rows += 1 + len(entry.draft)
                    elif sequence in arrived_s:
                        self._ttft_s.add(max(0.0, now_s - arrived_s.pop(sequence)))
                    last[sequence] = now_s, sequence.num_generated
                if reason is not None:
                    ended.append(sequence)
            for (before_s, at_once), count in gaps.items():
                self._inter_token_s.add(max(0.0, now_s - before_s) / at_once, count)
            self._end(ended)

    def aborted(self, sequences: Iterable[Sequence]) -> None:
        """They were ended between two steps."""
        with self._lock:
            self._end(sequences)

    def _end(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._arrived_s.pop(sequence, None)
            self._last.pop(sequence, None)
            self._ended += 1
            self._output_tokens += sequence.num_generated
            self._output_squares += sequence.num_generated**2

    def totals(self, now_s: float) -> LoadTotals:
        """A report, without what the scheduler and the timers count."""
        with self._lock:
            return LoadTotals(
                age_s=now_s - self._start_s,
                arrivals=self._arrivals,
                arrivals_by_second=self._by_second.copy(),
                ended=self._ended,
                output_tokens=self._output_tokens,
                output_squares=self._output_squares,
                decoded=self._decoded,
                decode_rows=self._decode_rows,
                ttft_s=self._ttft_s.copy(),
                inter_token_s=self._inter_token_s.copy(),
            )
