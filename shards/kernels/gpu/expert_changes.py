"""What adapters change of a layer's experts, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from galerne.adapters import MAX_ADAPTERS
from shards.adapters.low_rank import ExpertLowRank
from shards.kernels.gpu.grouped import (
    ExpertTables,
    Layout,
    gated,
    grouped_product,
    most_tiles,
    sorted_layout,
)
from shards.kernels.gpu.launch import Tile
from shards.kernels.gpu.low_rank import ROWS, ChangeTable
from shards.kernels.gpu.step_adapters import Slots, StepAdapters, as_signed


class ChangedRows(NamedTuple):
    """R rows of tokens with adapters; those that are changed are in tiles, grouped by both."""

    base_ids: torch.Tensor  # [T, K] int32: the step's experts, E where an adapter changes one
    tokens: torch.Tensor  # [R] int64
    places: torch.Tensor  # [R] int32 in the step's [T * K] rows
    expert_tiles: torch.Tensor  # [n, 3] int32: expert, first row, end
    change_tiles: torch.Tensor  # the same with the number of the change


class ExpertChanges:
    """Changes by adapter and expert, and the rows that have them.

    A changed row is computed apart from all others, by products of fixed tiles: gate and up in
    float32 with what the adapter adds, the activation, then down. Rows without a change are laid
    out and computed as if there were no adapters.
    """

    def __init__(self, num_experts: int, dtype: torch.dtype, device: torch.device) -> None:
        """For rows of ``dtype``; no changes yet."""
        self._num_experts = num_experts
        self._device = device
        count = MAX_ADAPTERS * num_experts
        self._gate, self._up, self._down = (ChangeTable(count, dtype, device) for _ in range(3))
        self._has = torch.zeros(count, dtype=torch.bool, device=device)
        self._slots = Slots(MAX_ADAPTERS)
        self._keys = torch.zeros(MAX_ADAPTERS, dtype=torch.int64, device=device)  # by slot; 0: free
        self._numbers = torch.arange(MAX_ADAPTERS, device=device)

    def put(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """Set what an adapter changes of an expert."""
        slot = self._slots.take(adapter)
        self._keys[slot] = as_signed(adapter)
        number = slot * self._num_experts + expert
        for table, low in zip((self._gate, self._up, self._down), change, strict=True):
            table.put_low_rank(number, low)
        self._has[number] = True

    def remove_adapter(self, adapter: int) -> None:
        """Forget an adapter, if it is here. Nobody computes meanwhile."""
        slot = self._slots.release(adapter)
        if slot is not None:
            self._keys[slot] = 0
            first = slot * self._num_experts
            self._forget(range(first, first + self._num_experts))

    def remove_expert(self, expert: int) -> None:
        """Forget what is changed of an expert. Nobody computes meanwhile."""
        self._forget(range(expert, len(self._has), self._num_experts))

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            for table in (self._gate, self._up, self._down):
                table.remove(number)
        self._has[list(numbers)] = False

    @property
    def num_bytes(self) -> int:
        """Of all changes."""
        return sum(table.num_bytes for table in (self._gate, self._up, self._down))

    @property
    def rooms(self) -> tuple[int, ...]:
        """What launches depend on besides a step: recorded ones hold as long as it is the same."""
        return self._gate.max_rank, self._up.max_rank, self._down.max_rank

    def changed_rows(self, expert_ids: torch.Tensor, step: StepAdapters) -> ChangedRows | None:
        """Of ``[T, K]`` int32 ids on the device, without asking it: shapes depend on T and A alone.

        None where no adapter of the step changes anything here.
        """
        if step.keys is not None and not any(key in self._slots for key in step.keys):
            return None
        num_experts, (num_tokens, top_k) = self._num_experts, expert_ids.shape
        # A token more, for padding, with ids that no expert has.
        all_ids = torch.cat([expert_ids, expert_ids.new_full((1, top_k), num_experts)])
        ids, key_of = all_ids[step.tokens].long(), step.key_of[:, None]
        is_mine = (key_of == self._keys) & (key_of != 0)  # [A, slots]
        slot = (is_mine * self._numbers).sum(dim=1, keepdim=True)
        is_known = is_mine.any(dim=1, keepdim=True) & (ids < num_experts)
        is_changed = is_known & self._has[torch.where(is_known, slot * num_experts + ids, 0)]
        all_ids[step.tokens] = torch.where(is_changed, num_experts, ids).int()
        num_numbers = len(self._has)
        numbers = torch.where(is_changed, slot * num_experts + ids, num_numbers)
        most = most_tiles(numbers.numel(), step.most_keys * num_experts, ROWS)
        layout = sorted_layout(numbers.int(), num_numbers, ROWS, most)
        number = layout.tiles[:, :1]
        expert = torch.where(number < 0, -1, number % num_experts)
        tokens = step.tokens[layout.row_token.long()].clamp_max(num_tokens - 1)
        return ChangedRows(
            all_ids[:num_tokens],
            tokens,
            (tokens * top_k + layout.row_out % top_k).int(),
            torch.cat([expert, layout.tiles[:, 1:]], dim=1),
            layout.tiles,
        )

    def run(
        self,
        x: torch.Tensor,
        tables: ExpertTables,
        changed: ChangedRows,
        out: torch.Tensor,
        tile: Tile,
    ) -> None:
        """Compute the changed rows.

        Args:
            x: ``[T, H]`` the step's tokens.
            tables: The experts' weights.
            changed: Of these tokens.
            out: ``[T * K, H]``; the changed rows are written to.
            tile: Of ``ROWS`` rows, the same at every call.
        """
        assert tile.rows == ROWS, "expert tiles and change tiles are the same"
        own, width = x[changed.tokens], tables.width
        in_order = torch.arange(len(own), dtype=torch.int32, device=x.device)
        sums = own.new_zeros((len(own), 2 * width), dtype=torch.float32)
        weights = tables.gate_up, tables.gate_up_scales, tables.form
        grouped_product(own, *weights, changed.expert_tiles, in_order, sums, tile)
        inner = Layout(in_order, in_order, changed.change_tiles)
        self._gate.add(sums[:, None, :width], own[:, None], inner)
        self._up.add(sums[:, None, width:], own[:, None], inner)
        active = gated(sums, x.dtype)
        weights = tables.down, tables.down_scales, tables.form
        grouped_product(active, *weights, changed.expert_tiles, changed.places, out, tile)
        outer = Layout(in_order, changed.places, changed.change_tiles)
        self._down.add(out[:, None], active[:, None], outer)
