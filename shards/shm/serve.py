"""The native loop over the rings of a shard: plain frames never meet Python."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from shards.kernels.experts import LayerExperts, NativeExperts
from shards.kernels.native.local import ExpertTable
from shards.metrics import ShardMetrics
from shards.shm.link import SharedLink
from shards.shm.rings import OwnBell, ring_library

_MAX_MEMORY_BYTES: Final = 256 << 20  # a frame that needs more is computed apart
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class _Link(ctypes.Structure):
    _fields_ = tuple((name, _POINTER) for name in ("requests", "replies", "bell"))


class _Served(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("family", "num_threads", "hidden", "num_layers")),
        *((name, _SIZE) for name in ("num_links", "num_epochs", "memory_bytes")),
        *((name, _POINTER) for name in ("layers", "links", "epochs", "memory", "bell")),
        *((name, _POINTER) for name in ("expert_rows", "totals", "passes", "waits", "bounds")),
        *((name, _SIZE) for name in ("num_bounds", "num_experts", "memory_wanted")),
    )


class RingServer:
    """Computes frames from ring to ring. Used by the compute thread only."""

    def __init__(
        self,
        layers: Mapping[int, NativeExperts],
        num_threads: int,
        bell: OwnBell,
        metrics: ShardMetrics,
    ) -> None:
        """All layers of one hidden size, and counters of their shape."""
        library = ring_library()
        assert library is not None
        self._library = library
        num_layers, num_experts = metrics.expert_rows.shape
        tables = [layers[i].table if i in layers else (0,) * 5 for i in range(num_layers)]
        any_layer = next(iter(layers.values()))
        self._held = (
            layers,
            bell,
            metrics,
            (ExpertTable * num_layers)(*(ExpertTable(*t) for t in tables)),
        )
        self._served = _Served(
            family=any_layer.family,
            num_threads=num_threads,
            hidden=any_layer.hidden,
            num_layers=num_layers,
            layers=ctypes.addressof(self._held[3]),
            bell=bell.address,
            expert_rows=metrics.expert_rows.ctypes.data,
            totals=metrics.totals.ctypes.data,
            passes=metrics.passes.ctypes.data,
            waits=metrics.waits.ctypes.data,
            bounds=metrics.bounds_ns.ctypes.data,
            num_bounds=len(metrics.bounds_ns),
            num_experts=num_experts,
        )
        self._memory = np.empty(0, np.uint8)
        self._at = ctypes.addressof(self._served)
        self._linked: tuple[Sequence[SharedLink], Sequence[int]] | None = None
        self.set_links(())

    def set_links(self, links: Sequence[SharedLink]) -> None:
        """Whose frames to compute; they all serve the same epochs."""
        epochs = sorted(links[0].epochs) if links else []
        if (links, epochs) == self._linked:
            return
        self._linked = links, epochs
        ends = (_Link(x.requests.address, x.replies.address, x.bell.address) for x in links)
        self._links = (_Link * len(links))(*ends)
        self._epochs = np.array(epochs, np.uint64)
        self._served.num_links, self._served.links = len(links), ctypes.addressof(self._links)
        self._served.num_epochs, self._served.epochs = len(epochs), self._epochs.ctypes.data

    def run(self, seen: int, timeout_s: float) -> bool:
        """Compute what comes. The GIL is free meanwhile.

        Returns:
            Whether frames are there that it leaves to others. If not, the bell was rung urgently
            since its count was ``seen``, or nothing came for ``timeout_s``.
        """
        served = self._served
        served.memory_wanted = 0
        is_left: int = self._library.galerne_serve_rings(self._at, seen, int(timeout_s * 1e9))
        if served.memory_bytes < served.memory_wanted <= _MAX_MEMORY_BYTES:
            self._memory = np.empty(2 * served.memory_wanted + 64, np.uint8)  # for the next one
            served.memory = -(-self._memory.ctypes.data // 64) * 64
            served.memory_bytes = 2 * served.memory_wanted
        return bool(is_left)


def ring_server(
    layers: Mapping[int, LayerExperts], num_threads: int, bell: object, metrics: ShardMetrics
) -> RingServer | None:
    """The loop, if native kernels hold all the experts and peers can ring the bell."""
    native = {layer: e for layer, e in layers.items() if isinstance(e, NativeExperts)}
    if not native or len(native) < len(layers) or not isinstance(bell, OwnBell):
        return None
    return RingServer(native, num_threads, bell, metrics)
