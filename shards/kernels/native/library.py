"""The C library's functions on torch tensors, with everything checked that C would trust."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from shards.kernels.formats import WeightFormat
from shards.kernels.native.adapters import Ints, TableChanges
from shards.kernels.native.compile import LIBRARY
from shards.kernels.native.families import (
    FAMILY_VARIABLE,
    SPIN_VARIABLE,
    TORCH,
    chosen,
    families,
    open_library,
)
from shards.kernels.native.packing import Packed

_SPIN_NS: Final = 200_000  # longer than what lies between two layers
_STATUS: Final = {
    1: "kernel family not supported here",
    2: "sizes do not fit",
    3: "a token or an expert that is not there",
}
_INT, _SIZE, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final[dict[str, Sequence[type]]] = {
    "galerne_linear": (
        *(_INT, _INT, _INT, _POINTER, _SIZE, _SIZE, _SIZE),
        *(_POINTER, _SIZE, _POINTER, _POINTER, _SIZE, _INT),
    ),
    "galerne_row_bytes": (_INT, _INT, _SIZE),
    "galerne_set_spin_ns": (_SIZE,),
    "galerne_mlp_bytes": (_INT, _INT, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE),
    "galerne_grouped_mlp": (
        *(_INT, _INT, _INT, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
        *(_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER),
    ),
    "galerne_routed_mlp": (
        *(_INT, _INT, _INT, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
        *(_POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER),
    ),
    "galerne_positions": (
        *(_POINTER, _SIZE, _POINTER, _SIZE, _SIZE, ctypes.c_double, ctypes.c_double, _POINTER),
    ),
    "galerne_layer_scratch": (_INT, _INT, _POINTER, _POINTER),
    "galerne_layer_front": (_INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER),
    "galerne_local_layers": (_INT, _INT, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER),
    "galerne_combine": (
        *(_INT, _INT, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER),
    ),
    "galerne_rms_norm": (_INT, _POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_double, _POINTER),
}


class NativeKernels:
    """One kernel family. Every result row depends on its input row and the weights alone."""

    def __init__(self, library: ctypes.CDLL, index: int) -> None:
        """``index`` is the family's number in the library."""
        self._library = library
        self.index = index
        self.family: str = library.galerne_family_name(index).decode()

    def set_spin_ns(self, ns: int) -> None:
        """How long threads wait actively between calls, from now on."""
        self._library.galerne_set_spin_ns(ns)

    def linear(self, x: torch.Tensor, weight: Packed, out: torch.Tensor, num_threads: int) -> None:
        """``out = x @ weight.T``.

        Args:
            x: ``[T, K]`` bf16.
            weight: Made by ``pack``.
            out: ``[T, N]`` bf16 or float32, rows contiguous.
            num_threads: Who computes; changes no bit.

        Raises:
            ValueError: Names what does not fit.
        """
        x = _matrix("x", x)
        is_wide = out.dtype == torch.float32
        if _matrix("out", out, torch.float32 if is_wide else torch.bfloat16) is not out:
            raise ValueError("out: rows that are contiguous expected")
        rows, k = x.shape
        if weight.num_inputs != k:
            raise ValueError(f"x: rows of {weight.num_inputs} expected, got {k}")
        if out.shape != (rows, weight.num_rows):
            raise ValueError(f"out: [{rows}, {weight.num_rows}] expected, got {list(out.shape)}")
        if rows == 0:
            return
        row_bytes = self.num_bytes("galerne_row_bytes", self.index, weight.held, k)
        memory = torch.empty(rows * row_bytes, dtype=torch.uint8)
        self.call(
            "galerne_linear",
            *(self.index, weight.held, num_threads, _at(x), rows, k, x.stride(0)),
            *(_at(weight.data), out.shape[1], _at(memory), _at(out), out.stride(0), is_wide),
        )

    def grouped_mlp(
        self,
        x: torch.Tensor,
        row_token: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        gate_up_at: npt.NDArray[np.int64],
        down_at: npt.NDArray[np.int64],
        width: int,
        held: WeightFormat,
        num_threads: int,
        expert_ids: Ints | None = None,
        changes: TableChanges | None = None,
    ) -> torch.Tensor:
        """As ``shards.kernels.grouped_mlp``, with packed weights given by their addresses.

        With ``changes``, ``expert_ids`` ``[G]`` has the expert of every group, for their tables.

        The addresses are trusted, but for 0: ``NativeExperts`` has made them, and holds the
        tensors. The packed down is of ``[H, I]`` with zero columns up to a multiple of
        ``packing.HALF``.

        Raises:
            ValueError: Anything else that does not fit.
        """
        x = _matrix("x", x).contiguous()
        first = np.concatenate(([0], np.cumsum(num_rows_by_group)))
        tokens, first, gate_ups, downs = (
            np.ascontiguousarray(a, dtype=np.int64) for a in (row_token, first, gate_up_at, down_at)
        )
        groups = len(first) - 1
        if not groups == len(gate_ups) == len(downs):
            raise ValueError(f"{groups} groups, {len(gate_ups)} and {len(downs)} weights")
        hidden = x.shape[1]
        max_rank = 0 if changes is None else changes.max_rank
        memory = self._mlp_memory(held, len(x), len(tokens), hidden, width, max_rank)
        ids = None if expert_ids is None else np.ascontiguousarray(expert_ids, dtype=np.int64)
        out = x.new_empty((len(tokens), hidden))
        self.call(
            "galerne_grouped_mlp",
            *(self.index, held, num_threads, _at(x), len(x), hidden),
            *(tokens.ctypes.data, len(tokens), first.ctypes.data),
            *(gate_ups.ctypes.data, downs.ctypes.data, groups, width),
            *(None if ids is None else ids.ctypes.data, _changes_at(changes)),
            *(_at(memory), _at(out)),
        )
        return out

    def routed_mlp(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        gate_up_at: npt.NDArray[np.int64],
        down_at: npt.NDArray[np.int64],
        width: int,
        held: WeightFormat,
        num_threads: int,
        changes: TableChanges | None = None,
    ) -> torch.Tensor:
        """``[T, K, H]``: every token through each of its experts.

        Args:
            x: ``[T, H]`` bf16.
            expert_ids: ``[T, K]``.
            gate_up_at: ``[E]`` addresses by expert id, as for ``grouped_mlp``; 0: not here.
            down_at: The same.
            width: Of the experts.
            held: How their weights are packed.
            num_threads: Who computes; changes no bit.
            changes: By tokens' adapters.

        Raises:
            ValueError: Names what does not fit.
        """
        tokens, hidden = x.shape
        check("x", x, (tokens, hidden))
        if expert_ids.shape[0] != tokens or len(gate_up_at) != len(down_at):
            raise ValueError("expert_ids: a row per token, and two tables of one length expected")
        ids, gate_ups, downs = (
            np.ascontiguousarray(a, dtype=np.int64) for a in (expert_ids, gate_up_at, down_at)
        )
        num_experts, top_k = len(gate_up_at), ids.shape[1]
        places = np.empty(2 * (num_experts + 1) + ids.size, dtype=np.int64)
        max_rank = 0 if changes is None else changes.max_rank
        memory = self._mlp_memory(held, tokens, ids.size, hidden, width, max_rank)
        out = x.new_empty((tokens, top_k, hidden))
        tables = (gate_ups.ctypes.data, downs.ctypes.data, num_experts)
        self.call(
            "galerne_routed_mlp",
            *(self.index, held, num_threads, _at(x), tokens, hidden, ids.ctypes.data, top_k),
            *(*tables, width, _changes_at(changes), places.ctypes.data, _at(memory), _at(out)),
        )
        return out

    def mlp_bytes(
        self,
        held: WeightFormat,
        num_tokens: int,
        num_rows: int,
        hidden: int,
        width: int,
        max_rank: int,
    ) -> int:
        """Scratch of an MLP."""
        sizes = (num_tokens, num_rows, hidden, width, max_rank)
        return self.num_bytes("galerne_mlp_bytes", self.index, held, *sizes)

    def _mlp_memory(self, *sizes: Any) -> torch.Tensor:  # noqa: ANN401 - those of mlp_bytes
        return torch.empty(self.mlp_bytes(*sizes), dtype=torch.uint8)

    def combine(
        self,
        x: torch.Tensor,
        shared: torch.Tensor,
        rows: torch.Tensor,
        weights: torch.Tensor,
        num_threads: int,
    ) -> None:
        """``x += shared + sum over k of weights_k * rows_k``, in float32, in this order.

        Args:
            x: ``[T, H]`` bf16, in place.
            shared: ``[T, H]`` bf16.
            rows: ``[T, K, H]`` bf16.
            weights: ``[T, K]`` float32.
            num_threads: Who computes; changes no bit.

        Raises:
            ValueError: Names what does not fit.
        """
        tokens, hidden = x.shape
        top_k = weights.shape[1]
        check("x", x, (tokens, hidden))
        check("shared", shared, (tokens, hidden))
        check("rows", rows, (tokens, top_k, hidden))
        check("weights", weights, (tokens, top_k), torch.float32)
        args = (_at(shared), _at(rows), _at(weights), tokens, top_k, hidden, _at(x))
        self.call("galerne_combine", self.index, num_threads, *args)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """``weight * x / sqrt(mean(x^2) + eps)`` of ``[T, H]`` bf16 rows, rounded once.

        Raises:
            ValueError: Names what does not fit.
        """
        check("x", x, tuple(x.shape))
        check("weight", weight, (x.shape[1],), torch.float32)
        out = torch.empty_like(x)
        self.call("galerne_rms_norm", self.index, _at(x), _at(weight), *x.shape, eps, _at(out))
        return out

    def call(self, name: str, *args: object) -> None:
        """Call a function that returns a status. The GIL is free meanwhile.

        Raises:
            ValueError: What the status says.
        """
        status = getattr(self._library, name)(*args)
        if status:
            raise ValueError(f"{name}: {_STATUS[status]}")

    def num_bytes(self, name: str, *args: object) -> int:
        """Call a function that returns a size, or a status below 0; raises as ``call``."""
        size: int = getattr(self._library, name)(*args)
        if size < 0:
            raise ValueError(f"{name}: {_STATUS[-size]}")
        return size


@cache
def native_kernels() -> NativeKernels | None:
    """The kernels of this process: the best family, or the one that ``GALERNE_KERNELS`` names.

    None where torch computes: asked for, or with one line in the log if there is no library.

    Raises:
        ConfigError: The variable names a family that is unknown or that this machine lacks.
    """
    if os.environ.get(FAMILY_VARIABLE) == TORCH:
        return None
    return chosen({kernels.family: kernels for kernels in load(LIBRARY)})


def kernels_for(dtype: torch.dtype, num_inputs: int) -> NativeKernels | None:
    """The kernels, if weights of this dtype and number of inputs are for them."""
    return native_kernels() if dtype == torch.bfloat16 and num_inputs % 2 == 0 else None


def load(path: Path) -> list[NativeKernels]:
    """Every family that the machine supports, the best last; none, and a warning, without them."""
    library = open_library(path)
    if library is None:
        return []
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    for name in ("galerne_layer_scratch", "galerne_mlp_bytes", "galerne_row_bytes"):
        getattr(library, name).restype = _SIZE
    return [NativeKernels(library, number) for number in families(library).values()]


def set_spin(*, owns_cores: bool) -> None:
    """Whether threads stay awake from one layer to the next, unless the environment says it."""
    kernels = native_kernels()
    if kernels is not None and SPIN_VARIABLE not in os.environ:
        kernels.set_spin_ns(_SPIN_NS if owns_cores else 0)


def _matrix(name: str, tensor: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A matrix on the CPU with contiguous rows; raises ValueError with the name."""
    is_plain = tensor.dim() == 2 and tensor.device.type == "cpu"
    if not is_plain or tensor.dtype != dtype:
        found = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: a {dtype} matrix on the CPU expected, got {found}")
    has_rows = tensor.stride(1) == 1 and tensor.stride(0) >= tensor.shape[1]
    return tensor if has_rows else tensor.contiguous()


def check(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Raises ValueError unless the tensor is contiguous on the CPU, of this shape and dtype."""
    is_plain = tensor.dtype == dtype and tensor.device.type == "cpu"
    if tensor.shape != shape or not is_plain or not tensor.is_contiguous():
        found = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: contiguous {list(shape)} {dtype} expected, got {found}")


def _changes_at(changes: TableChanges | None) -> int | None:
    return None if changes is None else changes.pointer


def _at(tensor: torch.Tensor) -> int:
    return tensor.data_ptr()
