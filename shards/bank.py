"""The experts that live in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import GalerneError, ProtocolError
from shards.adapters.adapter import Adapter
from shards.adapters.sizes import change_tensors
from shards.adapters.tokens import TokenAdapters, distinct_keys
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.weights import Checkpoint, ExpertWeights, Weight
from shards.device_room import DeviceRoom
from shards.kernels.device_sizes import allocated_bytes, expert_tensors, kept_on_gpu
from shards.kernels.experts import LayerExperts, layer_experts
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, Kernels, kernels_on, torch_device
from shards.kernels.quantise import Stored
from shards.kernels.threads import KernelThreads
from shards.memory import release_after_loading


class AdapterMissingError(GalerneError):
    """A frame names an adapter that is not here; it may be on its way."""

    status = "UNAVAILABLE"
    is_retryable = True

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"adapter {self.key:016x} is not loaded here"


class ExpertBank:
    """Resident physical experts of all layers, computed row by row."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        experts_by_layer: Mapping[int, Iterable[int]],
        dtype: torch.dtype,
        on_progress: Callable[[int, int], None] | None = None,
        num_threads: int = 1,
        held: WeightFormat = WeightFormat.BF16,
        device: str = CPU,
        room: DeviceRoom | None = None,
    ) -> None:
        """Load the named experts.

        Args:
            checkpoint: Where to read.
            experts_by_layer: Expert ids of every layer to hold.
            dtype: bfloat16 or float32, of weights, inputs and outputs.
            on_progress: Called with (experts loaded, experts in all).
            num_threads: Who computes; changes no bit.
            held: How the weights are held; other than bf16 only with bfloat16. On GPUs the weights
                of an fp8 checkpoint stay fp8 where this is bf16.
            device: cpu, or cuda.
            room: That experts and adapters have there; None: all that they need.

        Raises:
            ConfigError: The device is not here.
            DeviceFullError: They do not fit there.
        """
        self.dtype = dtype
        self.hidden_size = checkpoint.config.hidden_size
        self._checkpoint = checkpoint
        self._held = held
        self._device = device
        self._keeps_fp8 = kernels_on(device) is Kernels.TRITON
        self._threads = KernelThreads(num_threads)
        self._layers: dict[int, LayerExperts] = {}
        self._is_resident: dict[int, npt.NDArray[np.bool_]] = {}
        self._adapters: dict[int, Adapter] = {}  # by key
        self._change_bytes: dict[int, dict[tuple[int, int], float]] = {}  # by key, if it matters
        self._room = room or DeviceRoom(None)
        self._room.add_holder(self)
        self._lock = threading.Lock()  # of what is loaded and which adapters there are
        self.load(experts_by_layer, on_progress)

    def load(
        self,
        experts_by_layer: Mapping[int, Iterable[int]],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Hold these too. One thread at a time; others may compute with what was there before.

        Raises:
            DeviceFullError: They do not fit beside what is there; nothing is loaded.
        """
        wanted = {layer: sorted(set(ids)) for layer, ids in experts_by_layer.items()}
        self._check_room(wanted)
        total, done = sum(map(len, wanted.values())), 0
        for layer, ids in wanted.items():
            experts = self._of_layer(layer)
            for expert in ids:
                if not self._is_resident[layer][expert]:
                    weights = self._checkpoint.expert(layer, expert)
                    experts.add(expert, *self._matrices(weights))
                    with self._lock:
                        for adapter in self._adapters.values():
                            self._put_change(adapter, layer, expert)
                        self._is_resident[layer][expert] = True
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            release_after_loading(self._checkpoint)  # after each: pages and weights would add up

    def _check_room(self, wanted: Mapping[int, Iterable[int]]) -> None:
        new = [(n, e) for n, ids in wanted.items() for e in ids if not self.holds(n, e)]
        changes = list(self._change_bytes.values())
        needed = len(new) * self._expert_bytes
        needed += sum(of_adapter.get(place, 0.0) for of_adapter in changes for place in new)
        if new:
            self._room.check(f"{len(new)} routed experts", needed)

    @property
    def _expert_bytes(self) -> float:
        """Of one, as it is kept on a GPU."""
        config = self._checkpoint.config
        sizes, kept = (config.hidden_size, config.expert_size), kept_on_gpu(config, self._held)
        return allocated_bytes(expert_tensors(*sizes, kept, self.dtype.itemsize))

    def device_bytes(self) -> float:
        """See ``Holder``: experts that are here, and what adapters change of them."""
        changes = list(self._change_bytes.values())
        return len(self) * self._expert_bytes + sum(map(self._of_resident, changes))

    def _of_resident(self, change_bytes: Mapping[tuple[int, int], float]) -> float:
        return sum(size for place, size in change_bytes.items() if self.holds(*place))

    def adapter_bytes(self, adapter: Adapter) -> float:
        """What an adapter would take of a GPU here; 0 if it is here already."""
        if adapter.key in self._adapters:
            return 0.0
        return self._of_resident(self._changes_of(adapter))

    def _changes_of(self, adapter: Adapter) -> dict[tuple[int, int], float]:
        config, width = self._checkpoint.config, self.dtype.itemsize
        return {
            place: allocated_bytes(change_tensors(change, config, width))
            for place, change in adapter.routed.items()
        }

    def add_adapter(self, adapter: Adapter, name: str = "") -> None:
        """Hold what an adapter changes of the experts here, and of those that come.

        May be repeated. From any thread; others may compute with what was there before. ``name``:
        what errors call it; unset: its id.

        Raises:
            DeviceFullError: It does not fit beside what is there.
        """
        with self._lock:
            if adapter.key in self._adapters:
                return
            if self._room.free_bytes is not None:
                changes = self._changes_of(adapter)
                self._room.check(f"adapter {name or adapter.id}", self._of_resident(changes))
                self._change_bytes = {**self._change_bytes, adapter.key: changes}
            for layer, expert in adapter.routed:
                if self.holds(layer, expert):
                    self._put_change(adapter, layer, expert)
            self._adapters = {**self._adapters, adapter.key: adapter}

    def drop_adapter(self, key: int) -> None:
        """Forget an adapter, if it is here. Nobody computes meanwhile."""
        with self._lock:
            self._adapters = {k: a for k, a in self._adapters.items() if k != key}
            self._change_bytes = {k: c for k, c in self._change_bytes.items() if k != key}
            for experts in self._layers.values():
                experts.remove_changes(key)

    @property
    def device(self) -> torch.device:
        """Where the kernels want their tokens, and leave their results: see ``run``."""
        return torch_device(self._device)

    @property
    def model(self) -> ModelConfig:
        """Whose experts they are."""
        return self._checkpoint.config

    @property
    def adapters(self) -> frozenset[str]:
        """Ids of those that are here."""
        return frozenset(adapter.id for adapter in self._adapters.values())

    def _put_change(self, adapter: Adapter, layer: int, expert: int) -> None:
        change = adapter.routed.get((layer, expert))
        if change is not None:
            self._layers[layer].put_change(adapter.key, expert, change)

    def drop(self, experts_by_layer: Mapping[int, Iterable[int]]) -> None:
        """Hold these no longer. Nobody computes meanwhile."""
        for layer, ids in experts_by_layer.items():
            for expert in ids:
                self._is_resident[layer][expert] = False
                self._layers[layer].remove(expert)

    def _of_layer(self, layer: int) -> LayerExperts:
        if layer not in self._layers:
            num_experts = self._checkpoint.config.num_experts
            self._is_resident[layer] = np.zeros(num_experts, dtype=bool)
            self._layers[layer] = layer_experts(
                *(self.dtype, self.hidden_size, num_experts, self._threads, self._held),
                self._device,
            )
        return self._layers[layer]

    def _matrices(self, weights: ExpertWeights) -> tuple[Stored, Stored, Stored]:
        if self._keeps_fp8:
            return _kept_matrices(weights, self._held, self.dtype)
        return _matrices(weights, self._held, self.dtype)

    @property
    def resident(self) -> frozenset[tuple[int, int]]:
        """(layer, expert id) of all that is held."""
        layers = self._is_resident.items()
        return frozenset((layer, int(e)) for layer, here in layers for e in np.flatnonzero(here))

    def __len__(self) -> int:
        """Number of physical experts held."""
        return sum(int(resident.sum()) for resident in list(self._is_resident.values()))

    def holds(self, layer: int, expert: int) -> bool:
        """Whether this expert is resident."""
        return layer in self._is_resident and bool(self._is_resident[layer][expert])

    @property
    def num_bytes(self) -> int:
        """Bytes of the resident weights."""
        return sum(experts.num_bytes for experts in list(self._layers.values()))

    def prefault(self) -> int:
        """Read every weight once, so that no first token waits for the disk. Bytes held."""
        for experts in self._layers.values():
            experts.touch()
        return self.num_bytes

    @torch.inference_mode()
    def run(
        self,
        layer: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        num_rows_by_group: npt.NDArray[np.int64],
        row_token: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """Outputs of the given rows, unweighted.

        Shapes: T = tokens, R = rows, G = groups of rows of one expert.

        Args:
            layer: Layer of the experts.
            x: ``[T, H]`` in ``dtype``.
            expert_ids: ``[G]`` the expert of every group; may repeat.
            num_rows_by_group: ``[G]``, sums to R.
            row_token: ``[R]`` token of every row, group after group.
            adapters: Of the tokens; None: nobody has one.

        Returns:
            ``[R, H]`` in ``dtype``, in the order given.

        Raises:
            ProtocolError: An expert is not resident here.
            AdapterMissingError: An adapter is not here.
        """
        if not len(expert_ids):
            return x.new_empty((0, self.hidden_size))
        self._check_resident(layer, expert_ids)
        self._check_loaded(adapters)
        return self._layers[layer].run(x, expert_ids, num_rows_by_group, row_token, adapters)

    @property
    def layers(self) -> Mapping[int, LayerExperts]:
        """The experts of every layer."""
        return self._layers

    @torch.inference_mode()
    def run_all(
        self,
        layer: int,
        x: torch.Tensor,
        expert_ids: npt.NDArray[np.int64],
        adapters: TokenAdapters | None = None,
    ) -> torch.Tensor:
        """``[T, K, H]``: ``[T, H]`` tokens through each of their ``[T, K]`` experts, all resident.

        The rows of ``run``, bit for bit, without a frame's layout.
        """
        self._check_loaded(adapters)
        return self._layers[layer].run_all(x, expert_ids, adapters)

    def _check_loaded(self, adapters: TokenAdapters | None) -> None:
        for key in () if adapters is None else distinct_keys(adapters):
            if key not in self._adapters:
                raise AdapterMissingError(key)

    def _check_resident(self, layer: int, expert_ids: npt.NDArray[np.int64]) -> None:
        resident = self._is_resident.get(layer, np.zeros(0, dtype=bool))
        is_here = np.zeros(len(expert_ids), dtype=bool)
        known = (expert_ids >= 0) & (expert_ids < len(resident))
        is_here[known] = resident[expert_ids[known]]
        if not is_here.all():
            missing = int(expert_ids[~is_here][0])
            raise ProtocolError(f"expert {missing} of layer {layer} is not resident here")


def _matrices(
    weights: ExpertWeights, held: WeightFormat, dtype: torch.dtype
) -> tuple[Stored, Stored, Stored]:
    """Gate, up, down as they are held or in ``dtype``; views of the file where nothing changes."""
    down = weights.down.held_as(held, dtype)
    if len(weights.gate_up) == 1:  # never quantised
        gate, up = weights.gate_up[0].to(dtype).chunk(2)
        return gate, up, down
    gate_up = [weight.held_as(held, dtype) for weight in weights.gate_up]
    return gate_up[0], gate_up[1], down


def _kept_matrices(
    weights: ExpertWeights, held: WeightFormat, dtype: torch.dtype
) -> tuple[Stored, Stored, Stored]:
    """The same; weights of an fp8 file stay as they are."""
    parts = weights.gate_up
    if len(parts) == 1:
        width = len(parts[0].data) // 2
        parts = tuple(Weight(half, parts[0].scale) for half in torch.split(parts[0].data, width))
    gate, up, down = (weight.kept_as(held, dtype) for weight in (*parts, weights.down))
    return gate, up, down
