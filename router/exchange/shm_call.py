"""A whole call through the rings: one native call sends it, one takes the answers in."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from galerne.frame import DType
from galerne.ids import Epoch, ShardId
from router.exchange.dispatch import Ints
from router.exchange.shm_ends import SharedEnds
from router.exchange.transport import OutgoingCall
from shards.shm.rings import Bell, ring_library
from shards.times import ShardTimes, times_of
from shards.wire import WIRE_DTYPE

_SIZE, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Call(ctypes.Structure):
    """``Call`` of ``native/exchange.cpp``."""

    _fields_ = (
        *((n, _SIZE) for n in ("num_tokens", "top_k", "num_experts", "num_shards", "row_budget")),
        *((n, _SIZE) for n in ("hidden", "row_bytes", "dtype", "epoch", "step", "layer")),
        *((n, _SIZE) for n in ("micro_batch", "first_frame")),
        *((n, _POINTER) for n in ("owner", "expert_ids", "tokens", "requests", "replies", "bells")),
        *((n, _POINTER) for n in ("bell", "slots", "first", "is_in", "times", "memory")),
    )


class RingCalls:
    """Sends calls over the rings of all shards."""

    def __init__(
        self,
        shards: Sequence[ShardId],
        ends: Mapping[ShardId, SharedEnds],
        bell: Bell,
        epoch: Epoch,
    ) -> None:
        """The ends of every shard, in the order of the topology, and the bell they ring."""
        library = ring_library()
        assert library is not None
        self.library = library
        self.shards = shards
        self.bell = bell
        self._epoch = epoch
        all_ends = [ends[shard] for shard in shards]
        self._held = all_ends  # and what the addresses point to
        self._requests, self._replies, self._bells = (
            np.array(addresses, np.int64)
            for addresses in zip(
                *((e.requests.address, e.replies.address, e.bell.address) for e in all_ends),
                strict=True,
            )
        )

    def send(self, call: OutgoingCall, has_events: Callable[[], bool]) -> RingCall | None:
        """Send it; None if a frame finds no room."""
        source, ids = call.source, np.ascontiguousarray(call.expert_ids)
        if not source.is_contiguous() or not ids.size:
            return None
        num_tokens, top_k = ids.shape
        num_shards, num_experts = len(self.shards), len(call.owner)
        sizes = (
            *(ids.size, num_shards + 1, num_shards, num_shards),
            2 * num_shards + num_experts + num_tokens,
        )
        slots, first, is_in, times, memory = np.split(
            np.empty(sum(sizes), np.int64), np.cumsum(sizes[:-1])
        )
        struct = _Call(
            *(num_tokens, top_k, num_experts, num_shards, call.row_budget),
            *(source.shape[1], source.shape[1] * source.element_size(), WIRE_DTYPE[source.dtype]),
            *(self._epoch, call.step, call.layer, call.micro_batch, call.first_frame),
            *(call.owner.ctypes.data, ids.ctypes.data, source.data_ptr()),
            *(a.ctypes.data for a in (self._requests, self._replies, self._bells)),
            self.bell.address,
            *(a.ctypes.data for a in (slots, first, is_in, times, memory)),
        )
        if not self.library.galerne_exchange_send(ctypes.addressof(struct)):
            return None
        return RingCall(self, struct, slots, first, is_in, times, (call, ids, memory), has_events)


class RingCall:
    """Implements ``SentCall``."""

    def __init__(
        self,
        calls: RingCalls,
        struct: _Call,
        slots: Ints,
        first: Ints,
        is_in: Ints,
        times: Ints,
        held: object,
        has_events: Callable[[], bool],
    ) -> None:
        """``struct`` points to the arrays and to what is ``held``."""
        self._calls, self._struct, self._is_in, self._held = calls, struct, is_in, held
        self._times = times
        self._slots = slots
        self._has_events = has_events
        ends = first.tolist()
        self.slots_by_shard = {
            shard: slots[start:end]
            for shard, start, end in zip(calls.shards, ends, ends[1:], strict=False)
            if start < end
        }
        self._missing = list(self.slots_by_shard)

    def collect(self, out: torch.Tensor, timeout_s: float) -> Mapping[ShardId, float]:
        """See ``SentCall``."""
        struct = self._struct
        if (
            out.shape != (len(self._slots), struct.hidden)
            or DType(struct.dtype) is not WIRE_DTYPE[out.dtype]
            or not out.is_contiguous()
        ):
            raise ValueError(f"out: [{len(self._slots)}, {struct.hidden}] expected")
        seen = self._calls.bell.count
        timeout_ns = 0 if self._has_events() else max(int(timeout_s * 1e9), 0)
        self._calls.library.galerne_exchange_collect(
            *(ctypes.addressof(struct), out.data_ptr(), seen, timeout_ns)
        )
        is_in = dict(zip(self._calls.shards, self._is_in.tolist(), strict=True))
        ages = {shard: (is_in[shard] - 1) / 1e6 for shard in self._missing if is_in[shard]}
        self._missing = [shard for shard in self._missing if shard not in ages]
        return ages

    def times(self, shard: ShardId) -> ShardTimes:
        """See ``SentCall``."""
        told = int(self._times[self._calls.shards.index(shard)])
        return times_of(told & 0xFFFFFFFF, told >> 32 & 0xFFFFFFFF)
