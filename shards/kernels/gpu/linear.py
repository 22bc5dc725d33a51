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

_TILES: Final = (Tile(64, 16, 64, 4, 5), Tile(64, 64, 64, 4, 4), Tile(128, 128, 64, 8, 3))
# Of one byte a number: as many bytes of a row at once.
_BYTE_TILES: Final = (Tile(64, 16, 128, 4, 5), Tile(64, 64, 128, 4, 3), Tile(128, 128, 128, 8, 3))
# Few outputs: more programs share the reading. One tile for any number of rows.
_NARROW: Final = (Tile(16, 16, 128, 1, 5),)
_FEW_OUTPUTS: Final = 512


def tiles_of(held: WeightFormat) -> tuple[Tile, ...]:
    """Candidates for many outputs, the first one defines the bits."""
    return _TILES if held is WeightFormat.BF16 else _BYTE_TILES


class DeviceLinear:
    """``x @ weight.T``, accumulated in float32."""

    def __init__(self, weight: DeviceWeight, dtype: torch.dtype) -> None:
        """For rows of ``dtype``; tiles are probed here."""
        self.weight = weight
        n, k = weight.num_outputs, weight.num_inputs
        self._tiles: tuple[Tile, ...] = _NARROW
        if n > _FEW_OUTPUTS:
            key = ("linear", n, k, weight.held, dtype, weight.data.device)
            candidates = tiles_of(weight.held)
            self._tiles = verified(key, candidates, lambda tile: self._probe(tile, dtype))

    def _probe(self, tile: Tile, dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator(self.weight.data.device).manual_seed(0)
        x = torch.randn(
            (PROBE_ROWS, self.weight.num_inputs),
            generator=generator,
            device=self.weight.data.device,
        )
        out = torch.empty((PROBE_ROWS, self.weight.num_outputs), device=x.device)
        launch(x.to(dtype), self.weight, out, tile)
        return out

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``[T, K]`` -> ``[T, N]``: ``out``, or new in the dtype of ``x``."""
        if out is None:
            out = x.new_empty((len(x), self.weight.num_outputs))
        if len(x):
            launch(x, self.weight, out, for_rows(self._tiles, len(x)))
        return out


def launch(x: torch.Tensor, weight: DeviceWeight, out: torch.Tensor, tile: Tile) -> None:
    """One product by one kind of tile; the inner dimension of all is contiguous."""
    n, k = weight.num_outputs, weight.num_inputs
    scales = weight.data if weight.scales is None else weight.scales
    code.linear[(-(-n // tile.outputs), -(-len(x) // tile.rows), 1)](
        *(x, weight.data, scales, out, len(x)),
        *(x.stride(0), 0, 0, out.stride(0), 0),
        N=n,
        K=k,
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
