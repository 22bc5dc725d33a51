"""All layers of a step in one native call, where the experts live in the same process."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from shards.kernels.experts import NativeExperts
from shards.kernels.native.layer import (
    ALIGNMENT,
    PARTS,
    Ints,
    NativeLayer,
    NativeStep,
    Workspace,
)
from shards.kernels.native.library import NativeKernels, check

LOCAL_PARTS: Final = (*PARTS, "shared expert", "experts and wire", "combine")

_SIZE, _POINTER = ctypes.c_int64, ctypes.c_void_p


class ExpertTable(ctypes.Structure):
    """``NativeExperts.table`` as C takes it: ``Experts`` of ``grouped_mlp.h``."""

    _fields_ = (
        ("gate_up", _POINTER),
        ("down", _POINTER),
        ("num_experts", _SIZE),
        ("width", _SIZE),
        ("format", _SIZE),
    )


class _LocalLayer(ctypes.Structure):
    _fields_ = (
        ("layer", _POINTER),
        ("cache", _POINTER),
        ("shared", ExpertTable),
        ("routed", ExpertTable),
    )


class _Scratch(ctypes.Structure):
    _fields_ = tuple(
        (name, _POINTER)
        for name in ("front", "places", "zeros", "memory", "shared_out", "routed_out")
    )


class LocalLayers:
    """Layers with their caches and experts, held and pointed to."""

    def __init__(
        self,
        kernels: NativeKernels,
        layers: Sequence[NativeLayer],
        caches: Sequence[torch.Tensor],
        shared: Sequence[NativeExperts],
        routed: Sequence[NativeExperts],
        workspace: Workspace,
    ) -> None:
        """One of each per layer; ``caches`` as ``NativeStep.run`` takes them.

        Raises:
            ValueError: Layers, caches or experts of several sizes.
        """
        self._workspace = workspace
        self._sizes = layers[0].sizes
        if any(layer.sizes != self._sizes for layer in layers):
            raise ValueError("layers: of several sizes")
        if any(experts.hidden != self._sizes.hidden for experts in (*shared, *routed)):
            raise ValueError(f"experts: of {self._sizes.hidden} hidden numbers expected")
        for cache in caches:
            check("cache", cache, tuple(caches[0].shape))
        self._kernels = kernels
        self._held = (layers, caches, shared, routed)
        self._kinds = {(experts.held, experts.width) for experts in (*shared, *routed)}
        self._last: tuple[tuple[int, int, int], Ints] = (0, 0, 0), np.zeros(1, np.int64)
        self._num_experts = max(experts.num_ids for experts in routed)
        self._layers = (_LocalLayer * len(layers))(
            *(
                _LocalLayer(
                    ctypes.addressof(layer.struct),
                    cache.data_ptr(),
                    ExpertTable(*one.table),
                    ExpertTable(*many.table),
                )
                for layer, cache, one, many in zip(layers, caches, shared, routed, strict=True)
            )
        )

    def _mlp_bytes(self, step: NativeStep, num_slots: int, hidden: int) -> Iterator[int]:
        for held, width in self._kinds:
            yield self._kernels.mlp_bytes(
                held, step.num_tokens, num_slots, hidden, width, step.max_rank
            )

    def _starts(self, step: NativeStep) -> Ints:
        """Where the parts of the scratch begin, and where the last one ends."""
        key = (step.num_tokens, step.num_bytes, step.max_rank)
        if key != self._last[0]:
            sizes = self._sizes
            slots, rows = step.num_tokens * sizes.top_k, 2 * step.num_tokens * sizes.hidden
            # In bytes, in the order of ``_Scratch``; the zeros must be zeros.
            parts = (
                step.num_bytes,
                8 * (2 * (self._num_experts + 1) + slots),
                0,
                max(self._mlp_bytes(step, slots, sizes.hidden)),
                rows,
                rows * sizes.top_k,
            )
            starts = np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in parts)])
            self._last = key, starts
        return self._last[1]

    def run(self, step: NativeStep, x: torch.Tensor) -> list[float]:
        """Turn residuals ``[T, hidden]`` bf16 into those after all layers, in place.

        Bit for bit as layer by layer.

        Returns:
            Seconds by ``LOCAL_PARTS``.

        Raises:
            ValueError: Rows of another shape, or an expert that is not there.
        """
        step.check(self._sizes, x, self._held[1][0])
        starts = self._starts(step)
        places = starts + self._workspace.at_least(int(starts[-1]))
        scratch = _Scratch(*places[:-1].tolist())
        zeros = np.zeros(step.num_tokens, dtype=np.int64)
        scratch.zeros = zeros.ctypes.data
        seconds = np.zeros(len(LOCAL_PARTS))
        self._kernels.call(
            "galerne_local_layers",
            *(self._kernels.index, step.num_threads, self._layers, len(self._layers)),
            *(step.pointer, ctypes.byref(step.rows(x, seconds)), ctypes.byref(scratch)),
        )
        return list(seconds.tolist())
