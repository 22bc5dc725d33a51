"""The C library's functions on torch tensors, with everything checked that C would trust.

Importing torch first matters: it brings the ``libgomp.so.1`` that the library then shares, so that
a process has one pool of OpenMP threads.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import ConfigError
from shards.kernels.native.compile import LIBRARY

logger = logging.getLogger(__name__)

FAMILY_VARIABLE: Final = "GALERNE_KERNELS"  # a family's name, or torch; unset: the best there is
TORCH: Final = "torch"
COLUMNS: Final = 64  # output rows of a superblock, see family.h
_STATUS: Final = {1: "kernel family not supported here", 2: "sizes do not fit", 3: "token unknown"}
_INT, _SIZE, _POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final[dict[str, Sequence[type]]] = {
    "galerne_pack": (_POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _SIZE),
    "galerne_pack_gate_up": (_POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
    "galerne_linear": (
        *(_INT, _INT, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE),
    ),
    "galerne_grouped_mlp": (
        *(_INT, _INT, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
        *(_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER),
    ),
}


class NativeKernels:
    """One kernel family. Every result row depends on its input row and the weights alone."""

    def __init__(self, library: ctypes.CDLL, index: int) -> None:
        """``index`` is the family's number in the library."""
        self._library = library
        self._index = index
        self.family: str = library.galerne_family_name(index).decode()

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """``[N, K]`` bf16, K even, as ``linear`` reads it: ``[superblocks, K, COLUMNS]``."""
        weight = _matrix("weight", weight)
        n, k = weight.shape
        packed = torch.empty((-(-n // COLUMNS), k, COLUMNS), dtype=torch.bfloat16)
        self._call("galerne_pack", _at(weight), n, k, weight.stride(0), _at(packed), packed.numel())
        return packed

    def pack_gate_up(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """``[I, H]`` bf16 each, as ``grouped_mlp`` reads them: half superblocks of both."""
        gate, up = _matrix("gate", gate).contiguous(), _matrix("up", up).contiguous()
        if gate.shape != up.shape:
            raise ValueError(f"up: shape {list(gate.shape)} expected, got {list(up.shape)}")
        width, k = gate.shape
        packed = torch.empty((-(-width // (COLUMNS // 2)), k, COLUMNS), dtype=torch.bfloat16)
        args = (_at(gate), _at(up), width, k, _at(packed), packed.numel())
        self._call("galerne_pack_gate_up", *args)
        return packed

    def linear(
        self, x: torch.Tensor, packed: torch.Tensor, out: torch.Tensor, num_threads: int
    ) -> None:
        """``out = x @ weight.T``.

        Args:
            x: ``[T, K]`` bf16, rows contiguous.
            packed: Of a weight ``[N, K]``.
            out: ``[T, N]`` bf16, rows contiguous.
            num_threads: Who computes; changes no bit.
        """
        x = _matrix("x", x)
        if out.dtype != torch.bfloat16 or out.dim() != 2 or out.stride(1) != 1:
            raise ValueError(f"out: bf16 with contiguous rows expected, got {out.dtype}")
        rows, k = x.shape
        if packed.shape[1] != k or len(out) != rows:
            raise ValueError(f"x {list(x.shape)} and out {list(out.shape)} do not fit the weight")
        if packed.shape[0] != -(-out.shape[1] // COLUMNS):
            raise ValueError(f"out: {packed.shape[0]} superblocks give other columns than its own")
        if rows == 0:
            return
        args = (self._index, num_threads, _at(x), rows, k, x.stride(0), _at(packed))
        self._call("galerne_linear", *args, out.shape[1], _at(out), out.stride(0))

    def grouped_mlp(
        self,
        x: torch.Tensor,
        row_token: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        gate_up_at: npt.NDArray[np.int64],
        down_at: npt.NDArray[np.int64],
        width: int,
        num_threads: int,
    ) -> torch.Tensor:
        """As ``shards.kernels.grouped_mlp``, with packed weights given by their addresses.

        The addresses are trusted: ``NativeExperts`` has made them, and holds the tensors. The
        packed down is of ``[H, I]`` with zero columns up to a multiple of ``COLUMNS / 2``.

        Raises:
            ValueError: Anything else that does not fit.
        """
        x = _matrix("x", x).contiguous()
        tokens, counts, gate_ups, downs = (
            np.ascontiguousarray(a, dtype=np.int64)
            for a in (row_token, num_rows_by_group, gate_up_at, down_at)
        )
        if not len(counts) == len(gate_ups) == len(downs):
            raise ValueError(f"{len(counts)} groups, {len(gate_ups)} and {len(downs)} weights")
        out = x.new_empty((len(tokens), x.shape[1]))
        self._call(
            "galerne_grouped_mlp",
            *(self._index, num_threads, _at(x), len(x), x.shape[1]),
            *(tokens.ctypes.data, len(tokens), counts.ctypes.data),
            *(gate_ups.ctypes.data, downs.ctypes.data, len(counts), width, _at(out)),
        )
        return out

    def _call(self, name: str, *args: object) -> None:
        status = getattr(self._library, name)(*args)  # the GIL is free meanwhile
        if status:
            raise ValueError(f"{name}: {_STATUS[status]}")


@cache
def native_kernels() -> NativeKernels | None:
    """The kernels of this process: the best family, or the one that ``GALERNE_KERNELS`` names.

    None where torch computes: asked for, or with one line in the log if nothing was built here.

    Raises:
        ConfigError: The variable names a family that is unknown or that this machine lacks.
    """
    wanted = os.environ.get(FAMILY_VARIABLE, "")
    found = {kernels.family: kernels for kernels in load(LIBRARY)}
    if wanted == TORCH:
        return None
    if wanted:
        if wanted not in found:
            known = ", ".join([*found, TORCH])
            raise ConfigError(FAMILY_VARIABLE, wanted, f"this machine has {known}")
        return found[wanted]
    if not found:
        logger.warning("native_kernels_missing library=%s: torch computes, slower", LIBRARY)
        return None
    return list(found.values())[-1]


def load(path: Path) -> list[NativeKernels]:
    """Every family that the machine supports, the best last; none without a library."""
    if not path.exists():
        return []
    library = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = arguments
    library.galerne_family_name.restype = ctypes.c_char_p
    count = range(library.galerne_num_families())
    return [NativeKernels(library, i) for i in count if library.galerne_is_supported(i)]


def _matrix(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A bf16 matrix on the CPU with contiguous rows; raises ValueError with the name."""
    is_plain = tensor.dim() == 2 and tensor.device.type == "cpu"
    if not is_plain or tensor.dtype != torch.bfloat16:
        found = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name}: a bfloat16 matrix on the CPU expected, got {found}")
    has_rows = tensor.stride(1) == 1 and tensor.stride(0) >= tensor.shape[1]
    return tensor if has_rows else tensor.contiguous()


def _at(tensor: torch.Tensor) -> int:
    return tensor.data_ptr()
