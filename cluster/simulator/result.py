"""What a simulation gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.planning.candidate import Candidate, describe
from cluster.planning.decision import DecisionRecord
from cluster.simulator.timing import Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of times in seconds; None where there was none."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The cluster at one time."""

    at_s: float
    arrived: int  # since the last sample
    waiting: int
    running: int
    candidate: Candidate | None
    num_nodes: int
    ttft_s: Quantiles  # since the last sample
    inter_token_s: Quantiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A topology that came into effect."""

    at_s: float
    candidate: Candidate | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A whole run, until its last request was answered."""

    latencies: Latencies
    settled: Latencies  # of those who came from ``Setup.settled_from_s`` on
    num_arrivals: int
    num_unserved: int  # held at zero to the end
    first_s: float  # first arrival
    node_seconds: float  # to the end of the load
    samples: Sequence[Sample]
    records: Sequence[DecisionRecord]  # all decisions but holds
    commits: Sequence[Commit]
    calibration_error: float | None  # median of the periods between commits

    @property
    def requests_per_s(self) -> float:
        """Answered, from the first arrival to the last answer."""
        span_s = self.latencies.last_end_s - self.first_s
        return self.latencies.completion_s.count / span_s if span_s > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        latencies = self.latencies
        return {
            "arrivals": self.num_arrivals,
            "answered": latencies.completion_s.count,
            "unserved": self.num_unserved,
            "requests_per_s": self.requests_per_s,
            "node_seconds": self.node_seconds,
            "ttft_s": dict(latencies.ttft_s.summary()),
            "inter_token_s": dict(latencies.inter_token_s.summary()),
            "completion_s": dict(latencies.completion_s.summary()),
            "calibration_error": self.calibration_error,
            "commits": [
                {"at_s": c.at_s, "to": describe(c.candidate), "reason": c.reason}
                for c in self.commits
            ],
            "decisions": [record.to_dict() for record in self.records],
        }
