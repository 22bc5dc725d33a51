"""Dense products by tiles: a row's bits do not depend on how many rows there are.

cuBLAS picks kernels and cuts of the inner dimension by the number of rows, and breaks that.
"""

from __future__ import annotations

from typing import Final

import torch

from shards.kernels.formats import WeightFormat
from shards.kernels.gpu.code import linear as code
from shards.kernels.gpu.launch import NO_FUSION, PROBE_ROWS, Tile, for_rows, upcasts, verified
from shards.kernels.gpu.weights import DeviceWeight, wide_on_device

# Two programs of every tile fit a multiprocessor: one multiplies while another waits or converts.
_TILES: Final = (Tile(64, 16, 64, 4, 5), Tile(128, 64, 64, 8, 3), Tile(128, 128, 64, 8, 3))
# Of one byte a number: as many bytes of a row at once, as long as these fit beside the rows.
_BYTE_TILES: Final = (Tile(64, 16, 128, 4, 5), Tile(128, 64, 64, 8, 4), Tile(128, 128, 64, 8, 4))
_PROGRAMS: Final = 160  # that read a weight for few rows, at least: a GPU has 132 multiprocessors
_PART: Final = 256  # inputs of a part, at least and a multiple of
_FEW_ROWS: Final = 64  # above it a weight is read often enough without parts


def tiles_of(held: WeightFormat, num_parts: int = 1) -> tuple[Tile, ...]:
    """Candidates, the first one defines the bits; the largest has no room for a second sum."""
    tiles = _TILES if held is WeightFormat.BF16 else _BYTE_TILES
    return tiles if num_parts == 1 else tiles[:-1]


def parts_for(num_outputs: int, num_inputs: int) -> int:
    """Parts of the inputs for a weight whose outputs alone are too few programs."""
    parts, programs = 1, -(-num_outputs // _TILES[0].outputs)
    while parts * programs < _PROGRAMS and num_inputs % (2 * parts * _PART) == 0:
        parts *= 2
    return parts


def in_parts(x: torch.Tensor) -> torch.Tensor:
    """``[P, T, N]`` of a product in parts, or of a whole one ``[T, N]``."""
    return x if x.dim() == 3 else x[None]


class DeviceLinear:
    """``x @ weight.T``, accumulated in float32.

    The inputs are summed in parts, fixed by the weight's shape, and the parts in their order. For
    few rows every part is a program's, and whoever reads the product joins them.
    """

    def __init__(self, weight: DeviceWeight, dtype: torch.dtype, num_parts: int = 1) -> None:
        """For rows of ``dtype``; tiles are probed here.

        Raises:
            ValueError: The inputs cannot be cut into so many parts.
        """
        if num_parts > 1 and weight.num_inputs % (num_parts * _PART):
            raise ValueError(f"num_parts={num_parts} of {weight.num_inputs} inputs")
        self.weight = weight
        self.num_parts = num_parts
        shape = weight.num_outputs, weight.num_inputs, num_parts
        key = ("linear", *shape, weight.held, dtype, weight.data.device)
        candidates = tiles_of(weight.held, num_parts)
        self._tiles = verified(key, candidates, lambda tile: self._probe(tile, dtype))

    def _probe(self, tile: Tile, dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator(self.weight.data.device).manual_seed(0)
        x = torch.randn(
            (PROBE_ROWS, self.weight.num_inputs),
            generator=generator,
            device=self.weight.data.device,
        )
        out = torch.empty((PROBE_ROWS, self.weight.num_outputs), device=x.device)
        launch(x.to(dtype), self.weight, out, tile, self.num_parts)
        return out

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, K]`` -> ``[T, N]``: ``out``, or new in the dtype of ``x``."""
        if out is None:
            out = x.new_empty((len(x), self.weight.num_outputs))
        if len(x):
            launch(x, self.weight, out, for_rows(self._tiles, len(x)), self.num_parts)
        return out

    def parts(self, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """``[P, T, N]`` that ``code.tile.joined`` joins to the bits of the product itself.

        float32 parts, or one that is the product in ``dtype`` (that of ``x``).
        """
        shape = len(x), self.weight.num_outputs
        if self.num_parts == 1 or not 0 < len(x) <= _FEW_ROWS:
            return self(x, x.new_empty(shape, dtype=dtype or x.dtype))[None]
        out = x.new_empty((self.num_parts, *shape), dtype=torch.float32)
        launch(x, self.weight, out, for_rows(self._tiles, len(x)), self.num_parts)
        return out


def launch(
    x: torch.Tensor, weight: DeviceWeight, out: torch.Tensor, tile: Tile, num_parts: int = 1
) -> None:
    """One product by one kind of tile; the inner dimension of all is contiguous.

    ``out`` ``[T, N]`` is the sum of all parts, ``[P, T, N]`` has them one by one.
    """
    n, k = weight.num_outputs, weight.num_inputs
    scales = weight.data if weight.scales is None else weight.scales
    is_joined = out.dim() == 2
    members, out_part = (1, 0) if is_joined else (num_parts, out.stride(0))
    code.linear[(-(-n // tile.outputs), -(-len(x) // tile.rows), members)](
        *(x, weight.data, scales, out, len(x)),
        *(x.stride(0), 0, 0, out.stride(-2), out_part),
        N=n,
        K=k,
        PARTS=num_parts,
        IS_JOINED=is_joined,
        BN=tile.outputs,
        BT=tile.rows,
        BK=tile.inputs,
        FORMAT=weight.form,
        UPCAST=upcasts(x.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **NO_FUSION,
    )


def batched(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """A weight of its own for every member of a batch (a head).

    Args:
        x: ``[T, B, K]``.
        weight: ``[B, N, K]`` contiguous, of the same dtype.
        out: ``[T, B, N]`` to write to.
    """
    members, n, k = weight.shape
    tile = _TILES[0]  # members make enough programs, whatever the rows
    code.linear[(-(-n // tile.outputs), -(-len(x) // tile.rows), members)](
        *(x, weight, weight, out, len(x)),
        *(x.stride(0), x.stride(1), weight.stride(0), out.stride(0), out.stride(1)),
        N=n,
        K=k,
        PARTS=1,
        IS_JOINED=True,
        BN=tile.outputs,
        BT=tile.rows,
        BK=tile.inputs,
        FORMAT=0,
        UPCAST=upcasts(x.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **NO_FUSION,
    )


def reference(x: torch.Tensor, weight: DeviceWeight) -> torch.Tensor:
    """``[T, N]`` float32 by torch."""
    return x.float() @ wide_on_device(weight).T
