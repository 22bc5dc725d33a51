"""Frames to compute, where they come from, and where their answers go."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from galerne.errors import GalerneError
from galerne.frame import FrameHeader
from shards.times import NO_TIMES, ShardTimes
from shards.wire import RequestRows


class AnswerLink(Protocol):
    """Where answers go. Called on the compute thread."""

    def answer(
        self, request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
    ) -> None:
        """Send the results ``[R, H]`` of a frame, which nobody changes after the call."""
        ...

    def refuse(self, request: FrameHeader, error: GalerneError) -> None:
        """Send why a frame is not computed."""
        ...


class Job(NamedTuple):
    """One request frame, and where its answer goes."""

    header: FrameHeader
    rows: RequestRows
    link: AnswerLink
    came_s: float | None = None  # by the monotonic clock; None: nobody noted it
