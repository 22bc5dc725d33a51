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
    sorted_layout,
)
from shards.kernels.gpu.launch import Tile
from shards.kernels.gpu.low_rank import ROWS, ChangeTable
from shards.kernels.gpu.step_adapters import Slots, StepAdapters

_CACHED_STEPS = 64  # sets of adapters whose numbers stay on the device


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
        self._slots_of: dict[tuple[int, ...], torch.Tensor] = {}  # by the keys of a step

    def put(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """Set what an adapter changes of an expert."""
        number = self._slots.take(adapter) * self._num_experts + expert
        for table, low in zip((self._gate, self._up, self._down), change, strict=True):
            table.put_low_rank(number, low)
        self._has[number] = True
        self._slots_of = {}

    def remove_adapter(self, adapter: int) -> None:
        """Forget an adapter, if it is here. Nobody computes meanwhile."""
        slot = self._slots.release(adapter)
        if slot is not None:
            first = slot * self._num_experts
            self._forget(range(first, first + self._num_experts))
        self._slots_of = {}

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

    def changed_rows(self, expert_ids: torch.Tensor, step: StepAdapters) -> ChangedRows | None:
        """Of ``[T, K]`` int32 ids on the device, without asking it.

        None where no adapter of the step changes anything here.
        """
        if not any(key in self._slots for key in step.keys):
            return None
        num_experts, top_k = self._num_experts, expert_ids.shape[1]
        slots = self._slots_on_device(step.keys)
        ids, slot = expert_ids[step.tokens].long(), slots[step.of][:, None]
        is_known = (slot >= 0) & (ids < num_experts)
        is_changed = is_known & self._has[torch.where(is_known, slot * num_experts + ids, 0)]
        base_ids = expert_ids.clone()
        base_ids[step.tokens] = torch.where(is_changed, num_experts, ids).int()
        num_groups = len(step.keys) * num_experts
        groups = torch.where(is_changed, step.of[:, None] * num_experts + ids, num_groups)
        layout = sorted_layout(groups.int(), num_groups, ROWS)
        owner = layout.tiles[:, 0].long()
        expert, of = owner % num_experts, owner.clamp_min(0) // num_experts
        number = slots[of] * num_experts + expert
        tokens = step.tokens[layout.row_token.long()]
        places = tokens * top_k + layout.row_out % top_k
        return ChangedRows(
            base_ids,
            tokens,
            places.int(),
            _owned(layout.tiles, torch.where(owner < 0, -1, expert)),
            _owned(layout.tiles, torch.where(owner < 0, -1, number)),
        )

    def _slots_on_device(self, keys: tuple[int, ...]) -> torch.Tensor:
        """``[len(keys)]`` int64; -1 for adapters that change nothing here."""
        known = self._slots_of
        if keys not in known:
            if len(known) >= _CACHED_STEPS:
                known.clear()
            known[keys] = torch.tensor(self._slots.places(keys)).to(self._device)
        return known[keys]

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


def _owned(tiles: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Tiles with other owners."""
    return torch.cat([owners.int()[:, None], tiles[:, 1:]], dim=1)
