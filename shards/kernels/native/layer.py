"""A decoder layer from its residual to the gate's choice, in one native call; see ``layer.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shards.kernels.formats import WeightFormat
from shards.kernels.native.library import NativeKernels, check
from shards.kernels.native.packing import Packed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_TOP_K: Final = 16
MAX_THREADS: Final = 64  # of a team
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


class StepArrays(NamedTuple):
    """The tokens of a step, C chunks of consecutive positions.

    Chunk c has the rows from ``first_row[c]`` up to ``first_row[c + 1]``, begins at position
    ``start[c]`` and has the blocks ``tables[table_at[c]:table_at[c + 1]]``.
    """

    cos: Floats  # [T, rope / 2]
    sin: Floats
    query_scale: Floats  # [T] softmax scale times temperature
    slots: Ints  # [T] places in the cache: block * block_size + place
    first_row: Ints  # [C + 1]
    start: Ints  # [C]
    table_at: Ints  # [C + 1]
    tables: Ints


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
        *((name, _POINTER) for name in StepArrays._fields),
    )


class _Rows(ctypes.Structure):
    _fields_ = tuple(
        (name, _POINTER)
        for name in ("residual", "cache", "normed", "expert_ids", "weights", "seconds")
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
        arrays: StepArrays,
        cache_shape: tuple[int, int],
        workspace: Workspace,
        num_threads: int,
    ) -> None:
        """Checks all places.

        Args:
            kernels: Who computes.
            layer: One of those that the step will run.
            arrays: The tokens.
            cache_shape: Blocks and block size.
            workspace: May serve other steps too.
            num_threads: Changes no bit.

        Raises:
            ValueError: Sizes or places that do not fit.
        """
        self._kernels, self.num_threads = kernels, num_threads
        self._arrays = _contiguous(arrays)
        self.num_tokens = len(arrays.slots)
        self._sizes = sizes = layer.sizes
        self._check_lengths()
        self._cache_shape = (*cache_shape, sizes.kv_rank + sizes.rope)
        num_blocks, block_size = cache_shape
        addresses = (array.ctypes.data for array in self._arrays)
        counts = (self.num_tokens, len(arrays.start), block_size, num_blocks)
        self._step = _Step(*counts, *addresses)
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

    def run(self, layer: NativeLayer, x: torch.Tensor, cache: torch.Tensor) -> Front:
        """Turn residuals into those after attention, in place, and choose their experts.

        Args:
            layer: Of the sizes of this step's.
            x: ``[T, hidden]`` bf16.
            cache: ``[blocks, block size, kv_rank + rope]`` bf16 of this layer.

        Returns:
            What the next call will overwrite.

        Raises:
            ValueError: Something of another shape.
        """
        self.check(layer.sizes, x, cache)
        rows = self.rows(x, self.seconds)
        rows.cache = cache.data_ptr()
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

    def _check_lengths(self) -> None:
        a, tokens, chunks = self._arrays, self.num_tokens, len(self._arrays.start)
        fits = (
            a.cos.shape == a.sin.shape == (tokens, self._sizes.rope // 2)
            and a.query_scale.shape == (tokens,)
            and len(a.first_row) == len(a.table_at) == chunks + 1
            and a.table_at[0] == 0
            and a.table_at[-1] == len(a.tables)
            and bool((np.diff(a.table_at) >= 0).all())
        )
        if not fits:
            raise ValueError("step: arrays of lengths that do not fit together")


def _data(weight: torch.Tensor | Packed | Sequence[Packed]) -> torch.Tensor:
    if isinstance(weight, Packed):
        return weight.data
    if isinstance(weight, torch.Tensor):
        return weight.to(torch.float32).contiguous()
    return torch.cat([head.data for head in weight])


def _contiguous(arrays: StepArrays) -> StepArrays:
    floats = [np.ascontiguousarray(a, dtype=np.float32) for a in arrays[:3]]
    ints = [np.ascontiguousarray(a, dtype=np.int64) for a in arrays[3:]]
    return StepArrays(floats[0], floats[1], floats[2], *ints)


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
