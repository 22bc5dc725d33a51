"""The experts that live in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import ProtocolError
from shards.checkpoint.weights import Checkpoint, ExpertWeights
from shards.kernels.grouped_mlp import grouped_mlp
from shards.kernels.threads import KernelThreads


class ResidentExpert(NamedTuple):
    """One physical expert, ready to compute."""

    gate_up: torch.Tensor  # [2I, H]
    down: torch.Tensor  # [H, I]


class ExpertBank:
    """Resident physical experts of all layers, computed row by row.

    bf16 weights that the checkpoint stores stacked stay views of the mapped file; everything else
    (fp8 codes, split gate and up, another dtype) is converted once at load.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        experts_by_layer: Mapping[int, Iterable[int]],
        dtype: torch.dtype,
        on_progress: Callable[[int, int], None] | None = None,
        num_threads: int = 1,
    ) -> None:
        """Load the named experts.

        Args:
            checkpoint: Where to read.
            experts_by_layer: Expert ids of every layer to hold.
            dtype: bfloat16 or float32, of weights, inputs and outputs.
            on_progress: Called with (experts loaded, experts in all).
            num_threads: Experts computed at one time; above 1 they get threads of their own.
        """
        self.dtype = dtype
        self._threads = KernelThreads(num_threads)
        self.hidden_size = checkpoint.config.hidden_size
        self._experts: dict[tuple[int, int], ResidentExpert] = {}
        wanted = [(layer, e) for layer, ids in experts_by_layer.items() for e in sorted(set(ids))]
        for done, (layer, expert) in enumerate(wanted, start=1):
            self._experts[layer, expert] = _resident(checkpoint.expert(layer, expert), dtype)
            if on_progress is not None:
                on_progress(done, len(wanted))

    def __len__(self) -> int:
        """Number of physical experts held."""
        return len(self._experts)

    def holds(self, layer: int, expert: int) -> bool:
        """Whether this expert is resident."""
        return (layer, expert) in self._experts

    @property
    def num_bytes(self) -> int:
        """Bytes of the resident weights."""
        return sum(w.numel() * w.element_size() for e in self._experts.values() for w in e)

    def prefault(self) -> int:
        """Read every weight once, so that no first token waits for the disk. Bytes touched."""
        for expert in self._experts.values():
            for weight in expert:
                weight.view(-1).view(torch.uint8)[:: 1 << 12].sum()
        return self.num_bytes

    @torch.inference_mode()
    def run(
        self,
        layer: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
    ) -> torch.Tensor:
        """Outputs of the given rows, unweighted.

        Shapes: T = tokens, R = rows, G = groups of rows of one expert.

        Args:
            layer: Layer of the experts.
            x: ``[T, H]`` in ``dtype``.
            expert_ids: ``[G]`` the expert of every group; may repeat.
            num_rows_by_group: ``[G]``, sums to R.
            row_token: ``[R]`` token of every row, group after group.

        Returns:
            ``[R, H]`` in ``dtype``, in the order given.

        Raises:
            ProtocolError: An expert is not resident here.
        """
        experts = [self._get(layer, int(expert)) for expert in expert_ids]
        if not experts:
            return x.new_empty((0, self.hidden_size))
        return grouped_mlp(
            x,
            row_token,
            num_rows_by_group.tolist(),
            [e.gate_up for e in experts],
            [e.down for e in experts],
            self._threads,
        )

    def _get(self, layer: int, expert: int) -> ResidentExpert:
        found = self._experts.get((layer, expert))
        if found is None:
            raise ProtocolError(f"expert {expert} of layer {layer} is not resident here")
        return found


def _resident(weights: ExpertWeights, dtype: torch.dtype) -> ResidentExpert:
    parts = [weight.to(dtype) for weight in weights.gate_up]
    gate_up = parts[0] if len(parts) == 1 else torch.cat(parts)
    return ResidentExpert(gate_up, weights.down.to(dtype))
