"""The port between the exchange and the wire. One contract suite tests every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from galerne.errors import GalerneError
from galerne.ids import FrameId, ShardId
from router.exchange.dispatch import FrameRows, Ints
from shards.adapters.tokens import TokenAdapters
from shards.times import NO_TIMES, ShardTimes


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
    source: torch.Tensor  # [N, H], of which the frame's tokens are rows ``rows.tokens``
    source_adapters: TokenAdapters | None = None  # [N]

    @property
    def adapters(self) -> TokenAdapters | None:
        """``[T]`` of the frame's tokens; None where none of them has one."""
        if self.source_adapters is None:
            return None
        own = self.source_adapters[self.rows.tokens]
        return own if own.any() else None

    @property
    def tokens(self) -> torch.Tensor:
        """``[T, H]``, the frame's tokens, each once."""
        return self.source[torch.from_numpy(self.rows.tokens)]


@dataclass(frozen=True, slots=True)
class Answer:
    """Event: results of a frame, ``[R, H]`` in the order of its rows, on the CPU or its device."""

    shard: ShardId
    frame: FrameId
    rows: torch.Tensor
    age_s: float = 0.0  # how long it has been here
    times: ShardTimes = NO_TIMES  # at the shard


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


@dataclass(frozen=True, slots=True)
class Adopted:
    """Event: a shard holds these experts for others, and no more than these. By layer."""

    shard: ShardId
    experts_by_layer: Mapping[int, Sequence[int]]


TransportEvent: TypeAlias = Answer | Refusal | LinkUp | LinkDown | Adopted


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCall:
    """A whole exchange whose every expert has one owner. T tokens, K experts each, E experts."""

    step: int
    layer: int
    micro_batch: int
    expert_ids: Ints  # [T, K]
    source: torch.Tensor  # [T, H]
    owner: Ints  # [E] number of the shard that holds the expert
    first_frame: FrameId  # the frame to shard i has the number first_frame + i
    row_budget: int  # of a frame


class SentCall(Protocol):
    """A call whose frames were all sent, and whose answers go straight where they belong."""

    @property
    def slots_by_shard(self) -> Mapping[ShardId, Ints]:
        """``[R]`` slots of every shard that has some, in the order of its frame's rows."""
        ...

    def collect(self, out: torch.Tensor, timeout_s: float) -> Mapping[ShardId, float]:
        """Put rows that have come into their slots of ``out`` ``[T * K, H]``.

        Waits for all of them, but not after something else has come, or the time is over.

        Returns:
            Whose rows are in that were not before, and for how many seconds they have been here.
        """
        ...

    def times(self, shard: ShardId) -> ShardTimes:
        """Of the frame of a shard whose rows are in."""
        ...


class Transport(Protocol):
    """Carries frames to shards and events back. Used by one thread, the engine's."""

    def send(self, frame: OutgoingFrame) -> None:
        """Put a frame on its way; never blocks. On a link that is down the frame is dropped.

        A frame sent on a link that stands is answered, refused, or followed by ``LinkDown``, unless
        the shard hangs.
        """
        ...

    def send_call(self, call: OutgoingCall) -> SentCall | None:
        """Send all frames of a call at once.

        Answers that ``collect`` does not take come as events. None where this cannot be done: then
        nothing is sent.
        """
        ...

    def receive(self, timeout_s: float, num_awaited: int = 1) -> TransportEvent | None:
        """The next event, or None after ``timeout_s``.

        A caller that can do nothing before ``num_awaited`` events have come need not be woken
        before.
        """
        ...

    def close(self) -> None:
        """Give up all links; no event comes after."""
        ...
