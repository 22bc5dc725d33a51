"""What was seen of the load lately. No data is no load: an idle cluster counts as zero."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cluster.planning.load import NO_GUESSING, Guessing, Load
from galerne.histogram import LogHistogram
from router.engine.load_counter import DRAFT_PART, IMAGE_PART, LoadTotals

_UPPER_SIGMAS = 2.0  # of the estimate of a rate: it is lower in 97.7 % of windows
_NUM_PEAK_PARTS = 6  # parts of a window whose busiest one bounds the load too
# The busiest of 6 parts of a steady load is 1.3 sigmas above the mean; beyond 4 it never is.
_CHANCE_SIGMAS, _CERTAIN_SIGMAS = 2.0, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A window's end. Nothing in it is unknown: what nobody reported is zero."""

    at_s: float
    load: Load  # mean over the window; lengths are the last known ones where nobody asked
    upper: Load  # what it may really be: by chance, or if its busiest part is how it goes on
    recent_requests_per_s: float  # of the last part of the window
    latest_requests_per_s: float  # of its last moments, as far as it is no chance; else the mean
    waiting: int  # requests in all queues
    running: int
    idle_s: float  # since anything arrived, waited or ran
    ttft_p95_s: float | None  # None: no sample in the window
    inter_token_p95_s: float | None
    num_arrivals: int
    is_settled: bool  # watched for half a window at least, else the rates are mostly chance


@dataclass(slots=True)
class _Bin:
    """What fell into one part of time."""

    arrivals: int = 0
    admitted: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    output_tokens: int = 0
    output_squares: float = 0.0
    image_s: float = 0.0
    decoded: int = 0
    decode_rows: int = 0
    draft_s: float = 0.0
    ttft: LogHistogram = field(default_factory=LogHistogram)
    inter_token: LogHistogram = field(default_factory=LogHistogram)


class _Parts(NamedTuple):
    """Requests/s of parts of a window."""

    peak: float  # the busiest one, as far as it is no chance; at least the mean
    recent: float  # the last full one
    latest: float  # the last moments, as far as they are no chance; at least the mean


class ObservedWindow:
    """Counts in ``num_bins`` bins of a sliding window; memory does not grow with the load.

    Args:
        window_s: Length, in seconds.
        start_s: When watching began: a window that is not full yet is divided by its real length.
        num_bins: The finer, the shorter the bursts that ``arrival_cv2`` can see.

    Raises:
        ValueError: The window is not above 0 s, or has fewer than 6 bins.
    """

    def __init__(self, window_s: float, start_s: float = 0.0, num_bins: int = 60) -> None:
        if window_s <= 0 or num_bins < _NUM_PEAK_PARTS:
            raise ValueError(f"need a window above 0 s of 6 bins at least: {window_s}, {num_bins}")
        self.window_s = window_s
        self._bin_s = window_s / num_bins
        self._num_bins = num_bins
        self._start_s = start_s
        self._bins: defaultdict[int, _Bin] = defaultdict(_Bin)
        self._waiting = 0
        self._running = 0
        self._reported_s = -math.inf
        self._busy_s = start_s
        self._lengths = Load(requests_per_s=0, prompt_tokens=0, output_tokens=0)

    def arrived(self, at_s: float, prompt_tokens: int) -> None:
        """A request came; ``prompt_tokens`` that the prefix cache does not hold."""
        self.came(at_s, 1)
        found = self._at(at_s)
        found.admitted += 1
        found.prompt_tokens += prompt_tokens

    def came(self, at_s: float, num: int) -> None:
        """So many requests came, of which the prompts are not known yet."""
        if num:
            self._at(at_s).arrivals += num
            self._busy_s = max(self._busy_s, at_s)

    def counted(self, at_s: float, new: LoadTotals) -> None:
        """All but the arrivals and the queues of what an engine has counted lately."""
        found = self._at(at_s)
        found.admitted += new.admitted
        found.prompt_tokens += new.prompt_tokens
        found.ended += new.ended
        found.output_tokens += new.output_tokens
        found.output_squares += new.output_squares
        found.image_s += new.seconds_by_part.get(IMAGE_PART, 0.0)
        found.decoded += new.decoded
        found.decode_rows += new.decode_rows
        found.draft_s += new.seconds_by_part.get(DRAFT_PART, 0.0)
        found.ttft.merge(new.ttft_s)
        found.inter_token.merge(new.inter_token_s)
        if new.admitted or new.ended or new.inter_token_s.count:
            self._busy_s = max(self._busy_s, at_s)

    def ended(self, at_s: float, output_tokens: int) -> None:
        """A request was answered with so many tokens."""
        found = self._at(at_s)
        found.ended += 1
        found.output_tokens += output_tokens
        found.output_squares += output_tokens**2

    def first_token(self, at_s: float, ttft_s: float) -> None:
        """A request's first token went out."""
        self._at(at_s).ttft.add(ttft_s)

    def inter_token(self, at_s: float, seconds: float, count: int = 1) -> None:
        """So many tokens followed their forerunner after ``seconds``."""
        self._at(at_s).inter_token.add(seconds, count)

    def queues(self, at_s: float, waiting: int, running: int, parked: int = 0) -> None:
        """All queues' lengths now; they count until the next report or for one window.

        ``parked``: streams that are kept for their clients. They are no load, but not idle either.
        """
        self._waiting, self._running, self._reported_s = waiting, running, at_s
        if waiting or running or parked:
            self._busy_s = max(self._busy_s, at_s)

    def observe(self, now_s: float) -> Observed:
        """The window that ends at ``now_s``; forgets what came before it."""
        last = math.floor(now_s / self._bin_s)
        first = last - self._num_bins + 1
        for index in [i for i in self._bins if i < first]:
            del self._bins[index]
        bins = [self._bins[i] for i in range(first, last + 1) if i in self._bins]
        self._lengths = self._mix(bins)
        # The last bin is not over yet; so the window is a part of a bin shorter than window_s.
        span_s = max(self._bin_s, now_s - max(self._start_s, first * self._bin_s))
        num = sum(b.arrivals for b in bins)
        load = replace(
            self._lengths,
            requests_per_s=num / span_s,
            arrival_cv2=self._arrival_cv2(first, last),
        )
        parts = self._parts(first, last, now_s, load)
        is_fresh = now_s - self._reported_s <= self.window_s
        ttft, inter_token = LogHistogram(), LogHistogram()
        for b in bins:
            ttft.merge(b.ttft)
            inter_token.merge(b.inter_token)
        return Observed(
            at_s=now_s,
            load=load,
            upper=_upper(load, span_s, parts.peak),
            recent_requests_per_s=parts.recent,
            latest_requests_per_s=parts.latest,
            waiting=self._waiting if is_fresh else 0,
            running=self._running if is_fresh else 0,
            idle_s=max(0.0, now_s - self._busy_s),
            ttft_p95_s=ttft.quantile(0.95),
            inter_token_p95_s=inter_token.quantile(0.95),
            num_arrivals=num,
            is_settled=now_s - self._start_s >= self.window_s / 2,
        )

    def _at(self, at_s: float) -> _Bin:
        return self._bins[math.floor(at_s / self._bin_s)]

    def _mix(self, bins: list[_Bin]) -> Load:
        """Mean lengths; the last known ones where the window has none."""
        admitted, ended = sum(b.admitted for b in bins), sum(b.ended for b in bins)
        mix = self._lengths
        if admitted:
            prompt, image_s = sum(b.prompt_tokens for b in bins), sum(b.image_s for b in bins)
            mix = replace(mix, prompt_tokens=prompt / admitted, image_s=image_s / admitted)
        if decoded := sum(b.decoded for b in bins):
            rows, tokens = sum(b.decode_rows for b in bins), sum(b.inter_token.count for b in bins)
            draft_s = sum(b.draft_s for b in bins)
            mix = replace(mix, guessing=guessing_of(decoded, rows, tokens, draft_s))
        if ended:
            mean = sum(b.output_tokens for b in bins) / ended
            variance = max(0.0, sum(b.output_squares for b in bins) / ended - mean**2)
            cv2 = variance / mean**2 if mean else 1.0
            mix = replace(mix, output_tokens=mean, service_cv2=cv2)
        return mix

    def _arrival_cv2(self, first: int, last: int) -> float:
        """Index of dispersion of the bins' counts, which tends to the squared variation.

        Half the mean squared difference of neighbours (von Neumann) stands for the variance: a load
        that grows or steps once is then not taken for a bursty one. 1 (Poisson) without data.
        """
        begin = max(first, math.ceil(self._start_s / self._bin_s))
        counts = [self._count(i) for i in range(begin, last)]  # the last bin is not over
        mean = sum(counts) / len(counts) if counts else 0.0
        if len(counts) < 2 or not mean:
            return 1.0
        squares = sum((b - a) ** 2 for a, b in itertools.pairwise(counts))
        return squares / (2 * (len(counts) - 1)) / mean

    def _parts(self, first: int, last: int, now_s: float, load: Load) -> _Parts:
        """Rates of parts of the window that says ``load``."""
        width = self._num_bins // _NUM_PEAK_PARTS
        rates = []
        for end in range(last, first + width - 2, -width):
            begin_s = max(self._start_s, (end - width + 1) * self._bin_s)
            span_s = min(now_s, (end + 1) * self._bin_s) - begin_s
            if span_s >= width * self._bin_s / 2:  # a shorter one says too little
                num = sum(self._count(i) for i in range(end - width + 1, end + 1))
                rates.append(num / span_s)
        if not rates:
            return _Parts(0.0, 0.0, load.requests_per_s)
        busiest = _certain(max(rates), load, width * self._bin_s)
        latest = _certain(rates[0], load, width * self._bin_s)
        half = width // 2  # a step of a high load is certain sooner
        begin_s = max(self._start_s, (last - half) * self._bin_s)
        if half and now_s - begin_s >= half * self._bin_s:
            num = sum(self._count(i) for i in range(last - half, last + 1))
            latest = max(latest, _certain(num / (now_s - begin_s), load, now_s - begin_s))
        return _Parts(max(busiest, latest), rates[0], latest)

    def _count(self, index: int) -> int:
        return self._bins[index].arrivals if index in self._bins else 0


def guessing_of(decoded: int, rows: int, tokens: int, seconds: float) -> Guessing:
    """Of so many times that a sequence was in a step that decodes; nobody guessed: none."""
    if rows <= decoded:
        return NO_GUESSING
    return Guessing(
        rows=rows / decoded, tokens=max(tokens / decoded, 1.0), seconds=seconds / decoded
    )


def _certain(rate: float, load: Load, span_s: float) -> float:
    """Of the rate of a busy part, of ``span_s``, what is no chance; at least the mean rate.

    A part has few arrivals, so that its busiest one is far above the mean of a steady load; that
    is noise which the queueing formulas count already. All of it counts from 4 sigmas on.
    """
    mean = load.requests_per_s
    if rate <= mean:
        return mean
    # Of the part's own count: that of the mean is too small where a part has few arrivals.
    sigma = math.sqrt(rate * max(load.arrival_cv2, 1.0) / span_s)
    sigmas = (rate - mean) / sigma
    certain = (sigmas - _CHANCE_SIGMAS) / (_CERTAIN_SIGMAS - _CHANCE_SIGMAS)
    return mean + (rate - mean) * min(max(certain, 0.0), 1.0)


def _upper(load: Load, span_s: float, peak: float) -> Load:
    """By chance or by the busiest part, whichever is more.

    Of the busiest part the burst is the load itself: its variation is not counted once more.
    """
    num = load.requests_per_s * span_s
    by_chance = load.requests_per_s + _UPPER_SIGMAS * math.sqrt(num * load.arrival_cv2) / span_s
    if by_chance >= peak:
        return replace(load, requests_per_s=by_chance)
    return replace(load, requests_per_s=peak, arrival_cv2=min(load.arrival_cv2, 1.0))
