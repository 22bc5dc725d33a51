"""The resident experts of one layer on a GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from shards.adapters.low_rank import ExpertLowRank
from shards.adapters.tokens import TokenAdapters
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu.expert_changes import ExpertChanges
from shards.kernels.gpu.grouped import (
    ExpertTables,
    Layout,
    device_layout,
    grouped_mlp,
    host_layout,
    tiles_of,
)
from shards.kernels.gpu.launch import PROBE_ROWS, Tile, for_rows, verified
from shards.kernels.gpu.step_adapters import StepAdapters, step_adapters
from shards.kernels.gpu.weights import DeviceWeight, stacked, to_device
from shards.kernels.pinned import on_device, on_host
from shards.kernels.quantise import Stored


class TritonExperts:
    """Implements ``LayerExperts``.

    Rows may come from host memory and go back there, or stay on the device.
    """

    def __init__(
        self, num_experts: int, dtype: torch.dtype, held: WeightFormat, device: torch.device
    ) -> None:
        """Ids are below ``num_experts``; weights are held as asked for, or stay fp8."""
        self.device = device
        self._dtype = dtype
        self._held = held
        self._experts: dict[int, tuple[DeviceWeight, DeviceWeight]] = {}
        self._num_experts = num_experts
        # Addresses; the last column is the shared expert's, where it is computed with these.
        self._at = torch.zeros((4, num_experts + 1), dtype=torch.int64, device=device)
        self._shared: TritonExperts | None = None
        self._tables: ExpertTables | None = None
        self._kind: WeightFormat | None = None
        self._tiles: tuple[Tile, ...] = ()
        self._changes: ExpertChanges | None = None  # of adapters, once there is one

    def add(self, expert: int, gate: Stored, up: Stored, down: Stored) -> None:
        """See ``LayerExperts``.

        Raises:
            ValueError: Shapes or a format that differ from one another or from the first expert's,
                or an id that is not below ``num_experts``.
        """
        if not 0 <= expert < self._num_experts:
            raise ValueError(f"expert {expert} of {self._num_experts}")
        (width, hidden), held = gate.shape, (self._held, self._dtype, self.device)
        if tuple(up.shape) != (width, hidden) or tuple(down.shape) != (hidden, width):
            raise ValueError(f"expert {expert}: gate {list(gate.shape)}, down {list(down.shape)}")
        both = to_device(stacked([gate, up], self._dtype), *held)
        weights = both, to_device(down, *held)
        self._check(expert, weights, (width, hidden))
        self._experts[expert] = weights
        addresses = [a for w in weights for a in (w.data.data_ptr(), w.scale_address)]
        self._at[:, expert] = torch.tensor(addresses).to(self.device)
        if not self._tiles:
            self._tiles = self._probed(expert)

    def _check(
        self, expert: int, weights: tuple[DeviceWeight, DeviceWeight], shape: tuple[int, int]
    ) -> None:
        (width, hidden), (both, down) = shape, weights
        if both.held is not down.held:
            raise ValueError(f"expert {expert}: {both.held.label} and {down.held.label} in one")
        if self._tables is None:
            self._kind = both.held
            at = self._at
            self._tables = ExpertTables(at[0], at[1], at[2], at[3], width, hidden, both.form)
        known = self._tables.width, self._tables.hidden, self._tables.form
        if known != (width, hidden, both.form):
            found = f"[{width}, {hidden}] {both.held.label}"
            raise ValueError(f"expert {expert}: {found} unlike the first of its layer")

    def _probed(self, expert: int) -> tuple[Tile, ...]:
        assert self._tables is not None
        assert self._kind is not None
        tables, generator = self._tables, torch.Generator(self.device).manual_seed(0)
        x = torch.randn((PROBE_ROWS, tables.hidden), generator=generator, device=self.device)
        rows = np.arange(PROBE_ROWS)

        def compute(tile: Tile) -> torch.Tensor:
            group = np.array([expert]), np.array([PROBE_ROWS]), rows
            out = torch.empty_like(x, dtype=self._dtype)
            layout = host_layout(*group, tile.rows, self.device)
            grouped_mlp(x.to(self._dtype), tables, layout, out, tile)
            return out

        key = ("experts", tables[4:], self._dtype, self.device)
        return verified(key, tiles_of(self._kind), compute)

    def remove(self, expert: int) -> None:
        """See ``LayerExperts``."""
        del self._experts[expert]
        self._at[:, expert] = 0
        if self._changes is not None:
            self._changes.remove_expert(expert)

    def put_change(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """See ``LayerExperts``."""
        if self._changes is None:
            self._changes = ExpertChanges(self._num_experts, self._dtype, self.device)
        self._changes.put(adapter, expert, change)

    def remove_changes(self, adapter: int) -> None:
        """See ``LayerExperts``."""
        if self._changes is not None:
            self._changes.remove_adapter(adapter)

    @property
    def rooms(self) -> tuple[int, ...]:
        """See ``ExpertChanges``; of experts that no adapter has ever changed: none."""
        return () if self._changes is None else self._changes.rooms

    def run(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``; the result is where ``x`` is."""
        if adapters is not None and self._changes is not None:
            ids = np.repeat(expert_ids, num_rows_by_group)[:, None]
            own = on_device(x, self.device)[torch.from_numpy(row_token).to(self.device)]
            return _back(self._run_all(own, ids, adapters[row_token])[:, 0], x)
        tile = for_rows(self._tiles, int(num_rows_by_group.max()))
        layout = host_layout(expert_ids, num_rows_by_group, row_token, tile.rows, self.device)
        return _back(self._run(on_device(x, self.device), layout, tile), x)

    def run_all(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``; the result is where ``x`` is."""
        return _back(self._run_all(on_device(x, self.device), expert_ids, adapters), x)

    def _run_all(
        self, x: torch.Tensor, expert_ids: npt.NDArray[np.int64], adapters: TokenAdapters | None
    ) -> torch.Tensor:
        ids = torch.from_numpy(expert_ids.astype(np.int32)).to(self.device)
        of = None
        if adapters is not None and self._changes is not None:
            of = step_adapters(adapters, self.device)
        return self.run_routed(x, ids, of)

    def run_routed(
        self, x: torch.Tensor, expert_ids: torch.Tensor, adapters: StepAdapters | None = None
    ) -> torch.Tensor:
        """``run_all`` for what is on the device and stays there; ids int32. Asks it nothing."""
        changed, changes = None, self._changes
        if adapters is not None and changes is not None:
            changed = changes.changed_rows(expert_ids, adapters)
        tile = self._tile_for_step(expert_ids)
        plain = expert_ids if changed is None else changed.base_ids
        out = self._run(x, device_layout(plain, self._num_experts, tile.rows), tile)
        if changed is not None:
            assert changes is not None
            assert self._tables is not None
            changes.run(x, self._tables, changed, out, self._tiles[0])
        return out.view(*expert_ids.shape, -1)

    def can_share(self, shared: TritonExperts) -> bool:
        """Whether ``run_with_shared`` computes the only expert of ``shared``, from now on."""
        if self._shared is not shared:
            mine, its = self._tables, shared._tables
            if mine is None or its is None or mine[4:] != its[4:] or self._tiles != shared._tiles:
                return False
            self._at[:, -1] = shared._at[:, 0]
            self._shared = shared
        return True

    def run_with_shared(
        self, x: torch.Tensor, expert_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``[T, H]`` of the shared expert and ``run_routed``, in the same launches and bits."""
        tile = self._tile_for_step(expert_ids)
        layout = device_layout(expert_ids, self._num_experts, tile.rows, has_shared=True)
        out, num_rows = self._run(x, layout, tile), expert_ids.numel()
        return out[num_rows:], out[:num_rows].view(*expert_ids.shape, -1)

    def _tile_for_step(self, expert_ids: torch.Tensor) -> Tile:
        return for_rows(self._tiles, 2 * expert_ids.numel() // self._num_experts)

    def tile_for(self, num_rows: int) -> Tile:
        """What computes so many rows of one expert."""
        return for_rows(self._tiles, num_rows)

    def run_laid_out(self, x: torch.Tensor, layout: Layout, most_rows: int) -> torch.Tensor:
        """``[R, H]`` of rows laid out for ``tile_for(most_rows)``, on the device."""
        return self._run(x, layout, self.tile_for(most_rows))

    def _run(self, x: torch.Tensor, layout: Layout, tile: Tile) -> torch.Tensor:
        assert self._tables is not None
        if x.shape[1] != self._tables.hidden:
            raise ValueError(f"x: rows of {self._tables.hidden} expected, got {x.shape[1]}")
        out = x.new_empty((len(layout.row_token), self._tables.hidden))
        if len(out):
            grouped_mlp(x, self._tables, layout, out, tile)
        return out

    @property
    def num_bytes(self) -> int:
        """See ``LayerExperts``."""
        weights = sum(w.num_bytes for pair in list(self._experts.values()) for w in pair)
        return weights + (0 if self._changes is None else self._changes.num_bytes)

    def touch(self) -> None:
        """Adding has copied all of it."""


def _back(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Where ``x`` is; waits for the device only if that is not the device."""
    return result if result.device.type == x.device.type else on_host(result)
