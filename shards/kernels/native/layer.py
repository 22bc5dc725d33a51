"""A decoder layer from its residual to the gate's choice, in one native call; see ``layer.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shards.kernels.formats import WeightFormat
from shards.kernels.native.adapters import StepChanges
from shards.kernels.native.arena import WEIGHTS
from shards.kernels.native.library import NativeKernels, check
from shards.kernels.native.packing import Packed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ALIGNMENT: Final = 64
PARTS: Final = ("projections", "attention", "gate")  # whose seconds are told


class LayerSizes(NamedTuple):
    """Names as in the model reference, section 2; all inputs of weights are even."""

    hidden: int
    num_heads: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    v_dim: int
    num_experts: int
    top_k: int
    dense_format: WeightFormat  # of qkv_a, q_b and o
    eps: float
    routed_scale: float


class LayerWeights(NamedTuple):
    """Norms are float32 vectors; of the absorbed form there is one weight per head."""

    input_norm: torch.Tensor
    q_norm: torch.Tensor
    kv_norm: torch.Tensor
    post_norm: torch.Tensor
    qkv_a: Packed  # [q_rank + kv_rank + rope, hidden]
    q_b: Packed  # [num_heads * (nope + rope), q_rank]
    u_k: Sequence[Packed]  # num_heads of [kv_rank, nope]
    u_v: Sequence[Packed]  # num_heads of [v_dim, kv_rank]
    o: Packed  # [hidden, num_heads * v_dim]
    gate: Packed  # [num_experts, hidden]


class Rotary(NamedTuple):
    """What positions mean: model reference, section 2."""

    frequencies: npt.NDArray[np.float64]  # [rope / 2]
    period: int  # positions until the query temperature grows
    beta: float  # of the temperature
    scale: float  # of attention scores


class StepTokens(NamedTuple):
    """The tokens of a step, C chunks of consecutive positions.

    Chunk c has the rows from ``first_row[c]`` up to ``first_row[c + 1]``, begins at position
    ``start[c]`` and has the cache blocks ``tables[c]``.
    """

    positions: Ints  # [T]
    slots: Ints  # [T] places in the cache: block * block_size + place
    first_row: Ints  # [C + 1]
    start: Sequence[int]  # [C]
    tables: Sequence[Sequence[int]]  # [C]


class Front(NamedTuple):
    """What a layer's experts need."""

    normed: torch.Tensor  # [T, hidden] bf16
    expert_ids: Ints  # [T, top_k] ascending
    weights: Floats  # [T, top_k]


_SIZE, _REAL, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in LayerSizes._fields[:-2]),
        *((name, _REAL) for name in LayerSizes._fields[-2:]),
        *((name, _POINTER) for name in LayerWeights._fields),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("num_tokens", _SIZE),
        ("num_chunks", _SIZE),
        ("block_size", _SIZE),
        ("num_blocks", _SIZE),
        *((name, _POINTER) for name in ("cos", "sin", "query_scale", "slots", "first_row")),
        *((name, _POINTER) for name in ("start", "table_at", "tables")),
        *((name, _SIZE) for name in ("max_rank", "num_changes")),
        *((name, _POINTER) for name in ("change_of", "changes")),
    )


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("residual", "cache", "normed", "expert_ids", "weights")),
        ("seconds", _POINTER),
        ("layer", _SIZE),
    )


class NativeLayer:
    """Weights of one layer, held and pointed to."""

    def __init__(self, sizes: LayerSizes, weights: LayerWeights) -> None:
        """Raises ValueError if a weight has another shape."""
        _check_weights(sizes, weights)
        self.sizes = sizes
        self._held = [_data(weight) for weight in weights]
        self.struct = _Layer(*sizes, *(tensor.data_ptr() for tensor in self._held))


class Workspace:
    """Memory that calls borrow one after the other: new memory would be faulted in every time."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def at_least(self, num_bytes: int) -> int:
        """Address of so many bytes, good until more are asked for."""
        if len(self._memory) < num_bytes + ALIGNMENT:
            self._memory = torch.empty(2 * num_bytes + ALIGNMENT, dtype=torch.uint8)
        return -(-self._memory.data_ptr() // ALIGNMENT) * ALIGNMENT


class NativeStep:
    """A step as the kernels take it, and room for what they compute; serves one layer at a time."""

    def __init__(
        self,
        kernels: NativeKernels,
        layer: NativeLayer,
        tokens: StepTokens,
        rotary: Rotary,
        cache_shape: tuple[int, int],
        workspace: Workspace,
        num_threads: int,
        changes: StepChanges | None = None,
    ) -> None:
        """Checks all places.

        Args:
            kernels: Who computes.
            layer: One of those that the step will run.
            tokens: Where they are.
            rotary: What their positions mean.
            cache_shape: Blocks and block size.
            workspace: May serve other steps too.
            num_threads: Changes no bit.
            changes: By tokens' adapters.

        Raises:
            ValueError: Sizes or places that do not fit.
        """
        self._kernels, self.num_threads = kernels, num_threads
        self.num_tokens = len(tokens.slots)
        self._sizes = sizes = layer.sizes
        self._cache_shape = (*cache_shape, sizes.kv_rank + sizes.rope)
        num_blocks, block_size = cache_shape
        counts = (self.num_tokens, len(tokens.start), block_size, num_blocks)
        self._floats = _rotated(kernels, tokens.positions, rotary, sizes.rope // 2)
        self._ints, offsets = _joined(tokens)
        floats, ints = self._floats.ctypes.data, self._ints.ctypes.data
        part = 4 * self.num_tokens * (sizes.rope // 2)
        addresses = (floats, floats + part, floats + 2 * part, *(ints + 8 * o for o in offsets))
        self._changes = changes  # and what it points to
        self.max_rank = 0 if changes is None else changes.fields[0]
        self._step = _Step(*counts, *addresses, *(() if changes is None else changes.fields))
        pair = ctypes.byref(layer.struct), ctypes.byref(self._step)
        self.num_bytes = kernels.num_bytes(
            "galerne_layer_scratch", kernels.index, num_threads, *pair
        )
        self._workspace = workspace
        self._front = Front(
            torch.empty((self.num_tokens, sizes.hidden), dtype=torch.bfloat16),
            np.empty((self.num_tokens, sizes.top_k), dtype=np.int64),
            np.empty((self.num_tokens, sizes.top_k), dtype=np.float32),
        )
        self.seconds = np.zeros(len(PARTS))  # summed over the calls

    def run(self, layer: NativeLayer, x: torch.Tensor, cache: torch.Tensor, index: int) -> Front:
        """Turn residuals into those after attention, in place, and choose their experts.

        Args:
            layer: Of the sizes of this step's.
            x: ``[T, hidden]`` bf16.
            cache: ``[blocks, block size, kv_rank + rope]`` bf16 of this layer.
            index: The layer's number, for ``changes``.

        Returns:
            What the next call will overwrite.

        Raises:
            ValueError: Something of another shape.
        """
        self.check(layer.sizes, x, cache)
        rows = self.rows(x, self.seconds)
        rows.cache, rows.layer = cache.data_ptr(), index
        self._kernels.call(
            "galerne_layer_front",
            *(self._kernels.index, self.num_threads, ctypes.byref(layer.struct)),
            *(self.pointer, ctypes.byref(rows), self._workspace.at_least(self.num_bytes)),
        )
        return self._front

    def check(self, sizes: LayerSizes, x: torch.Tensor, cache: torch.Tensor) -> None:
        """Raises ValueError unless layer, residuals and cache are those of this step."""
        check("x", x, (self.num_tokens, self._sizes.hidden))
        check("cache", cache, self._cache_shape)
        if sizes != self._sizes:
            raise ValueError("layer: of other sizes than the step")

    def rows(self, x: torch.Tensor, seconds: npt.NDArray[np.float64]) -> _Rows:
        """What a layer reads and writes, but for its cache."""
        front = self._front
        return _Rows(
            *(x.data_ptr(), None, front.normed.data_ptr()),
            *(a.ctypes.data for a in (front.expert_ids, front.weights, seconds)),
        )

    @property
    def pointer(self) -> object:
        """The step as C takes it."""
        return ctypes.byref(self._step)


def _rotated(
    kernels: NativeKernels, positions: Ints, rotary: Rotary, num_pairs: int
) -> npt.NDArray[np.float32]:
    """``[T * (2 * pairs + 1)]``: cosines, sines and query scales."""
    if len(rotary.frequencies) != num_pairs:
        raise ValueError(f"rotary: {num_pairs} frequencies expected")
    positions = np.ascontiguousarray(positions, dtype=np.int64)
    frequencies = np.ascontiguousarray(rotary.frequencies, dtype=np.float64)
    out = np.empty(len(positions) * (2 * num_pairs + 1), np.float32)
    kernels.call(
        "galerne_positions",
        *(positions.ctypes.data, len(positions), frequencies.ctypes.data, num_pairs),
        *(rotary.period, rotary.beta, rotary.scale, out.ctypes.data),
    )
    return out


def _joined(tokens: StepTokens) -> tuple[Ints, tuple[int, ...]]:
    """Slots, first rows, starts, table starts and tables in one array, and where each begins.

    One array, because every one of them costs more than what is in it.
    """
    num_tokens, num_chunks = len(tokens.slots), len(tokens.start)
    if not len(tokens.positions) == num_tokens == tokens.first_row[-1]:
        raise ValueError("step: arrays of lengths that do not fit together")
    if not len(tokens.first_row) - 1 == num_chunks == len(tokens.tables):
        raise ValueError("step: arrays of lengths that do not fit together")
    table_at = [0, *accumulate(map(len, tokens.tables))]
    sizes = (num_tokens, num_chunks + 1, num_chunks, num_chunks + 1, table_at[-1])
    offsets = (0, *accumulate(sizes))
    joined = np.empty(offsets[-1], np.int64)
    tables = list(chain.from_iterable(tokens.tables))
    parts: tuple[npt.ArrayLike, ...] = (
        *(tokens.slots, tokens.first_row, tokens.start),
        *(table_at, tables),
    )
    for part, begin, end in zip(parts, offsets, offsets[1:], strict=False):
        joined[begin:end] = part
    return joined, offsets[:-1]


def _data(weight: torch.Tensor | Packed | Sequence[Packed]) -> torch.Tensor:
    if isinstance(weight, Packed):
        return weight.data
    if isinstance(weight, torch.Tensor):
        return weight.to(torch.float32).contiguous()
    return WEIGHTS.copy(torch.cat([head.data for head in weight]))


def _check_weights(s: LayerSizes, weights: LayerWeights) -> None:
    norms = {
        "input_norm": s.hidden,
        "q_norm": s.q_rank,
        "kv_norm": s.kv_rank,
        "post_norm": s.hidden,
    }
    packed = {
        "qkv_a": (s.q_rank + s.kv_rank + s.rope, s.hidden),
        "q_b": (s.num_heads * (s.nope + s.rope), s.q_rank),
        "u_k": (s.kv_rank, s.nope),
        "u_v": (s.v_dim, s.kv_rank),
        "o": (s.hidden, s.num_heads * s.v_dim),
        "gate": (s.num_experts, s.hidden),
    }
    for name, length in norms.items():
        if getattr(weights, name).shape != (length,):
            raise ValueError(f"{name}: {length} numbers expected")
    for name, (n, k) in packed.items():
        weight = getattr(weights, name)
        heads = [weight] if isinstance(weight, Packed) else weight
        if len(heads) != (s.num_heads if name in ("u_k", "u_v") else 1):
            raise ValueError(f"{name}: one weight per head expected")
        held = s.dense_format if name in ("qkv_a", "q_b", "o") else WeightFormat.BF16
        if any((head.num_rows, head.num_inputs, head.held) != (n, k, held) for head in heads):
            raise ValueError(f"{name}: [{n}, {k}] in {held.label} expected")
