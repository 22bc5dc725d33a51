"""The resident experts of one layer: the one place where expert kernels are chosen.

All kinds give rows that depend on the input row and the weights alone.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from shards.adapters.low_rank import ExpertLowRank
from shards.adapters.tokens import TokenAdapters
from shards.kernels.expert_changes import changed_rows
from shards.kernels.formats import WeightFormat
from shards.kernels.grouped_mlp import grouped_mlp
from shards.kernels.kinds import CPU, Kernels, kernels_on, torch_device
from shards.kernels.native.adapters import ExpertChangeTable, TableChanges
from shards.kernels.native.library import NativeKernels, kernels_for
from shards.kernels.native.packing import HALF, Packed, pack, pack_gate_up
from shards.kernels.quantise import Stored, rounded, with_inputs
from shards.kernels.threads import ONE_THREAD, KernelThreads


class LayerExperts(Protocol):
    """Physical experts of one layer, by expert id."""

    def add(self, expert: int, gate: Stored, up: Stored, down: Stored) -> None:
        """Take ``[I, H]``, ``[I, H]``, ``[H, I]`` of one dtype; every expert has the same shape.

        They may be quantised already, as they are held.
        """

    def remove(self, expert: int) -> None:
        """Forget one that is there, and what adapters change of it."""

    def put_change(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """Take what an adapter changes of an expert."""

    def remove_changes(self, adapter: int) -> None:
        """Forget an adapter, if it is there."""

    def run(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """``[R, H]``: see ``ExpertBank.run``; all experts are resident.

        Tokens of adapters that change nothing here are computed as without.
        """

    def run_all(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """``[T, K, H]``: ``[T, H]`` tokens through each of their ``[T, K]`` experts, all resident.

        The rows of ``run``, bit for bit.
        """

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights as they are held."""

    def touch(self) -> None:
        """Read every weight once, so that no first token waits for the disk."""


def layer_experts(
    dtype: torch.dtype,
    hidden_size: int,
    num_experts: int,
    threads: KernelThreads,
    held: WeightFormat = WeightFormat.BF16,
    device: str = CPU,
) -> LayerExperts:
    """The fastest kind for weights of ``dtype`` on a device; ``num_experts`` bounds the ids.

    Where torch computes, what is held in fewer bits is rounded as these would be, and no smaller.

    Raises:
        ConfigError: The device is not here.
    """
    if kernels_on(device) is Kernels.TRITON:
        at = torch_device(device)
        from shards.kernels.gpu.experts import TritonExperts

        return TritonExperts(num_experts, dtype, held, at)
    kernels = kernels_for(dtype, hidden_size)
    if kernels is not None:
        return NativeExperts(kernels, num_experts, threads.num_threads, held)
    return TorchExperts(threads, held)


class _Weights(NamedTuple):
    gate_up: torch.Tensor  # [2I, H]
    down: torch.Tensor  # [H, I]


class TorchExperts:
    """Experts computed by torch; bf16 weights stacked in the file stay views of it."""

    def __init__(
        self, threads: KernelThreads = ONE_THREAD, held: WeightFormat = WeightFormat.BF16
    ) -> None:
        """``threads`` compute whole experts; weights are rounded as if they were ``held``."""
        self._threads = threads
        self._held = held
        self._experts: dict[int, _Weights] = {}
        self._changes: dict[int, dict[int, ExpertLowRank]] = {}  # by adapter, then by expert

    def add(self, expert: int, gate: Stored, up: Stored, down: Stored) -> None:
        """See ``LayerExperts``."""
        gate, up, down = (rounded(weight, self._held) for weight in (gate, up, down))
        self._experts[expert] = _Weights(_stacked(gate, up), down)

    def remove(self, expert: int) -> None:
        """See ``LayerExperts``."""
        del self._experts[expert]
        for changes in self._changes.values():
            changes.pop(expert, None)

    def put_change(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """See ``LayerExperts``."""
        self._changes.setdefault(adapter, {})[expert] = change

    def remove_changes(self, adapter: int) -> None:
        """See ``LayerExperts``."""
        self._changes.pop(adapter, None)

    def run(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``."""
        experts = [self._experts[int(expert)] for expert in expert_ids]
        return grouped_mlp(
            x,
            row_token,
            num_rows_by_group.tolist(),
            [expert.gate_up for expert in experts],
            [expert.down for expert in experts],
            self._threads,
            None
            if adapters is None
            else changed_rows(*(expert_ids, num_rows_by_group, adapters[row_token], self._changes)),
        )

    def run_all(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``."""
        flat = expert_ids.reshape(-1)
        order = np.argsort(flat, kind="stable")
        experts, counts = np.unique(flat, return_counts=True)
        rows = x.new_empty((flat.size, x.shape[1]))
        row_token = order // expert_ids.shape[1]
        rows[torch.from_numpy(order)] = self.run(x, experts, counts, row_token, adapters)
        return rows.view(*expert_ids.shape, -1)

    @property
    def num_bytes(self) -> int:
        """See ``LayerExperts``."""
        return sum(w.numel() * w.element_size() for e in list(self._experts.values()) for w in e)

    def touch(self) -> None:
        """See ``LayerExperts``."""
        for expert in self._experts.values():
            for weight in expert:
                weight.view(-1).view(torch.uint8)[:: 1 << 12].sum()


class NativeExperts:
    """Experts packed for the native kernels, in memory of their own."""

    def __init__(
        self,
        kernels: NativeKernels,
        num_experts: int,
        num_threads: int = 1,
        held: WeightFormat = WeightFormat.BF16,
    ) -> None:
        """``num_threads`` share the superblocks of all experts of a call."""
        self.held = held
        self._kernels = kernels
        self.num_threads = num_threads
        self._experts: dict[int, tuple[Packed, Packed]] = {}
        self._gate_up_at = np.zeros(num_experts, dtype=np.int64)  # addresses by expert id
        self._down_at = np.zeros(num_experts, dtype=np.int64)
        self._changes: dict[int, ExpertChangeTable] = {}  # by adapter
        self._shape: tuple[int, int] | None = None  # of a gate: (I, H)

    def add(self, expert: int, gate: Stored, up: Stored, down: Stored) -> None:
        """See ``LayerExperts``.

        Raises:
            ValueError: Shapes that differ from one another or from the first expert's, or an id
                that is not below ``num_experts``.
        """
        if not 0 <= expert < len(self._gate_up_at):
            raise ValueError(f"expert {expert} of {len(self._gate_up_at)}")
        width, hidden = gate.shape
        if self._shape not in (None, (width, hidden)) or tuple(down.shape) != (hidden, width):
            raise ValueError(f"expert {expert}: gate {list(gate.shape)}, down {list(down.shape)}")
        self._shape = (width, hidden)
        if width % HALF:  # inputs beyond the width are zeros, as the gate-up superblocks give them
            down = with_inputs(down, width + -width % HALF)
        packed = pack_gate_up(gate, up, self.held), pack(down, self.held)
        self._experts[expert] = packed
        self._gate_up_at[expert], self._down_at[expert] = (p.data.data_ptr() for p in packed)

    def remove(self, expert: int) -> None:
        """See ``LayerExperts``."""
        self._gate_up_at[expert] = self._down_at[expert] = 0
        del self._experts[expert]
        for table in self._changes.values():
            table.remove(expert)

    def put_change(self, adapter: int, expert: int, change: ExpertLowRank) -> None:
        """See ``LayerExperts``."""
        table = self._changes.get(adapter) or ExpertChangeTable(self.num_ids)
        table.put(expert, change)
        self._changes[adapter] = table

    def remove_changes(self, adapter: int) -> None:
        """See ``LayerExperts``."""
        self._changes.pop(adapter, None)

    def changes_of(self, adapter: int) -> ExpertChangeTable | None:
        """What an adapter changes, where it stays while the adapter does; None: nothing."""
        return self._changes.get(adapter)

    def _changes_for(self, adapters: TokenAdapters | None) -> TableChanges | None:
        return None if adapters is None else TableChanges(adapters, self._changes)

    def run(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``."""
        self._check_rows(x)
        return self._kernels.grouped_mlp(
            x,
            row_token,
            num_rows_by_group,
            self._gate_up_at[expert_ids],
            self._down_at[expert_ids],
            self.width,
            self.held,
            self.num_threads,
            expert_ids,
            self._changes_for(adapters),
        )

    def run_all(
        self,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """See ``LayerExperts``."""
        self._check_rows(x)
        return self._kernels.routed_mlp(
            x,
            expert_ids,
            self._gate_up_at,
            self._down_at,
            self.width,
            self.held,
            self.num_threads,
            self._changes_for(adapters),
        )

    def _check_rows(self, x: torch.Tensor) -> None:
        if x.shape[1] != self.hidden:
            raise ValueError(f"x: rows of {self.hidden} expected, got {x.shape[1]}")

    @property
    def family(self) -> int:
        """Number of the kernels' family."""
        return self._kernels.index

    @property
    def num_ids(self) -> int:
        """Ids are below this."""
        return len(self._gate_up_at)

    @property
    def width(self) -> int:
        """Of an expert."""
        assert self._shape is not None
        return self._shape[0]

    @property
    def hidden(self) -> int:
        """Inputs and outputs of an expert."""
        assert self._shape is not None
        return self._shape[1]

    @property
    def table(self) -> tuple[int, int, int, int, int]:
        """Addresses of the tables by expert id, their length, width and format: as C takes them."""
        tables = (self._gate_up_at.ctypes.data, self._down_at.ctypes.data)
        return (*tables, self.num_ids, self.width, self.held)

    @property
    def num_bytes(self) -> int:
        """See ``LayerExperts``."""
        weights = sum(p.data.nbytes for packed in list(self._experts.values()) for p in packed)
        return weights + sum(table.num_bytes for table in list(self._changes.values()))

    def touch(self) -> None:
        """Packing has written all of it."""


def _stacked(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Gate and up as one; without a copy where they are halves of one stored weight already."""
    follows = gate.data_ptr() + gate.numel() * gate.element_size() == up.data_ptr()
    if follows and gate.untyped_storage().data_ptr() == up.untyped_storage().data_ptr():
        return gate.as_strided((2 * len(gate), gate.shape[1]), gate.stride())
    return torch.cat([gate, up])
