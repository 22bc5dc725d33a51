"""What is asked of a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests as they come; their means. All zero: nobody asks anything."""

    requests_per_s: float
    prompt_tokens: float  # that must be computed: what the prefix cache holds is not counted
    output_tokens: float
    arrival_cv2: float = 1.0  # squared coefficient of variation of their distance; 1: Poisson
    service_cv2: float = 1.0  # of their length


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a deployment promises. None: it promises nothing of that kind."""

    ttft_p95_s: float | None = None
    inter_token_p95_s: float | None = None
    max_nodes: int | None = None
    min_copies: int = 1  # of every expert, on different nodes where there are several
