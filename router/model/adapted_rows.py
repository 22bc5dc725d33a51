"""What adapters change of a step's rows, in torch: ``low_rank.h`` does it for native kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from shards.adapters.adapter import Adapter
from shards.adapters.low_rank import LowRank
from shards.adapters.tokens import TokenAdapters, distinct_keys
from shards.kernels.low_rank import add_low_rank
from shards.kernels.row_invariant import linear, pad_rows


class AdaptedRows:
    """Rows of a step by adapter. Rows without one are never touched."""

    def __init__(self, adapters: TokenAdapters | None, loaded: Mapping[int, Adapter]) -> None:
        """``loaded`` by key; it has all that are there."""
        self._groups: list[tuple[Adapter, torch.Tensor]] = []
        if adapters is not None:
            for key in distinct_keys(adapters):
                rows = torch.from_numpy(np.flatnonzero(adapters == np.uint64(key)))
                self._groups.append((loaded[key], rows))

    def add(self, layer: int, name: str, y: torch.Tensor, x: torch.Tensor) -> None:
        """Add the changes of a weight to its products ``y`` of ``x``, in place."""
        for change, rows in self._changes(layer, name):
            add_low_rank(y, x, change, rows)

    def add_absorbed(
        self, layer: int, absorbed: torch.Tensor, queries: torch.Tensor, value_dim: int
    ) -> None:
        """Of kv_b's rows for keys, to queries in the space of the latents.

        W_uk' = W_uk + B_uk A, so a head's query goes through B_uk first.

        Args:
            layer: Which.
            absorbed: ``[rows, H, dc]`` float32, in place.
            queries: ``[rows, H, dn]`` float32.
            value_dim: dv; kv_b has dn + dv rows per head.
        """
        num_heads, nope = queries.shape[1:]
        for change, rows in self._changes(layer, "kv_b"):
            up = change.up.float().view(num_heads, nope + value_dim, -1)
            down = change.down.float().t().contiguous()
            for head in range(num_heads):
                x = pad_rows(queries[rows, head])
                hidden = linear(x, up[head, :nope].t().contiguous()) * change.scale
                absorbed[rows, head] += linear(hidden, down)[: len(rows)]

    def add_values(self, layer: int, values: torch.Tensor, mixed: torch.Tensor) -> None:
        """Of kv_b's rows for values, to what attention has mixed.

        Args:
            layer: Which.
            values: ``[H, rows, dv]`` float32, in place.
            mixed: ``[rows, H, dc]`` float32.
        """
        num_heads, _, value_dim = values.shape
        for change, rows in self._changes(layer, "kv_b"):
            up = change.up.float().view(num_heads, -1, change.up.shape[1])[:, -value_dim:]
            down = change.down.float().contiguous()
            for head in range(num_heads):
                hidden = linear(pad_rows(mixed[rows, head]), down) * change.scale
                values[head, rows] += linear(hidden, up[head].contiguous())[: len(rows)]

    def _changes(self, layer: int, name: str) -> Iterator[tuple[LowRank, torch.Tensor]]:
        for adapter, rows in self._groups:
            change = adapter.dense.get((layer, name))
            if change is not None:
                yield change, rows
