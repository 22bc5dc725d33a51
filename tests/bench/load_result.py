"""What became of a load's requests, as quantiles and rates of any part of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass
class Answer:
    """One request as its client saw it; seconds since the load began, or since it was due."""

    number: int
    prompt_tokens: int
    output_tokens: int  # asked for
    due_s: float
    late_s: float = 0.0  # sent so long after it was due, because the client was busy
    ttft_s: float | None = None  # since it was due
    # Before every token but the first. Tokens that came in one event share the wait before it.
    gaps_s: list[float] = field(default_factory=list)
    completion_s: float = 0.0  # since it was due; the end of the call, also of a failed one
    digest: str = ""  # of its tokens
    error: str = ""  # empty: all tokens came

    @property
    def end_s(self):
        return self.due_s + self.completion_s

    @property
    def token_times_s(self):
        """Of every token, since the load began."""
        if self.ttft_s is None:
            return []
        return list(accumulate(self.gaps_s, initial=self.due_s + self.ttft_s))


@dataclass
class LoadResult:
    """A whole load."""

    answers: Sequence[Answer]
    began_unix_s: float
    client_cpu_s: float  # the client has the server's cores

    @property
    def failed(self):
        return [answer for answer in self.answers if answer.error]

    @property
    def end_s(self):
        """Of the last answer."""
        return max((answer.end_s for answer in self.answers), default=0.0)

    def summary(self, start_s=0.0, end_s=None):
        """Latencies of the requests that were due from ``start_s`` to ``end_s``, and rates of what
        was answered in that time. Default: the whole load, to the last answer.
        """
        until_s = self.end_s + 1e-9 if end_s is None else end_s
        due = [a for a in self.answers if start_s <= a.due_s < until_s]
        good = [a for a in due if not a.error]
        ended = sum(start_s <= a.end_s < until_s for a in self.answers if not a.error)
        tokens = sum(start_s <= t < until_s for a in self.answers for t in a.token_times_s)
        span_s = max(until_s - start_s, 1e-9)
        return {
            "requests": len(due),
            "failed": len(due) - len(good),
            "seconds": span_s,
            "arrivals_per_s": len(due) / span_s,
            "requests_per_s": ended / span_s,
            "tokens_per_s": tokens / span_s,
            "ttft_s": spread([a.ttft_s for a in good]),
            "inter_token_s": spread([gap for a in good for gap in a.gaps_s]),
            "completion_s": spread([a.completion_s for a in good]),
            "late_p99_s": spread([a.late_s for a in due])["p99"],
            "errors": [a.error for a in due if a.error][:5],
        }


def spread(values):
    """Mean and quantiles; None without values."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(("mean", "p50", "p95", "p99", "max"))
    found = {f"p{q}": quantile(ordered, q / 100) for q in (50, 95, 99)}
    return {"mean": sum(ordered) / len(ordered), **found, "max": ordered[-1]}


def quantile(ordered, fraction):
    """Between the two nearest of values in order."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
