"""The port between the exchange and the wire. One contract suite tests every implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from galerne.errors import GalerneError
from galerne.ids import FrameId, ShardId
from router.exchange.dispatch import FrameRows


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingFrame:
    """A request to one shard, with everything its header needs."""

    shard: ShardId
    frame: FrameId
    attempt: int
    step: int
    layer: int
    micro_batch: int
    rows: FrameRows
    tokens: torch.Tensor  # [T, H], the frame's tokens, each once


@dataclass(frozen=True, slots=True)
class Answer:
    """Event: results of a frame, ``[R, H]`` in the order of its rows."""

    shard: ShardId
    frame: FrameId
    rows: torch.Tensor


@dataclass(frozen=True, slots=True)
class Refusal:
    """Event: a shard will not compute a frame."""

    shard: ShardId
    frame: FrameId
    error: GalerneError


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Event: a shard can be reached, its hello agreed."""

    shard: ShardId


@dataclass(frozen=True, slots=True)
class LinkDown:
    """Event: a shard cannot be reached; what was sent may be lost."""

    shard: ShardId
    reason: str


TransportEvent: TypeAlias = Answer | Refusal | LinkUp | LinkDown


class Transport(Protocol):
    """Carries frames to shards and events back. Used by one thread, the engine's."""

    def send(self, frame: OutgoingFrame) -> None:
        """Put a frame on its way; never blocks. On a link that is down the frame is dropped.

        A frame sent on a link that stands is answered, refused, or followed by ``LinkDown``, unless
        the shard hangs.
        """
        ...

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """The next event, or None after ``timeout_s``."""
        ...

    def close(self) -> None:
        """Give up all links; no event comes after."""
        ...
