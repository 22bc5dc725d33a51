"""Which traces are kept, at their requests' end. Pure."""

from __future__ import annotations

from typing import NamedTuple

# Refusals are the client's affair, and come in floods.
_FAILURES = frozenset(
    {"error", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "UNKNOWN"}
)


class Course(NamedTuple):
    """How a request went, as one process has seen it."""

    is_sampled: bool = False  # was said to be when it came
    is_failed: bool = False
    is_retried: bool = False  # moved to another gateway, or asked another shard for its rows
    is_kept_below: bool = False  # by whom we have called
    longest_wait_s: float = 0.0  # for a token, the first one's included


def keep_reason(course: Course, slow_s: float) -> str:
    """Why its spans are kept; empty: they are not."""
    if course.is_sampled:
        return "sampled"
    if course.is_failed:
        return "failed"
    if course.is_retried:
        return "retried"
    if course.is_kept_below:
        return "kept_below"
    return "slow" if course.longest_wait_s > slow_s else ""


def is_failure(outcome: str) -> bool:
    """Whether an outcome (a finish reason or a gRPC status) is our fault."""
    return outcome in _FAILURES
