"""The decoder: embedding, layers with experts away, final head. Serving mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from galerne.errors import ConfigError
from router.model.batch import StepBatch
from router.model.experts_port import PendingRows, RoutedExperts
from router.model.kv_cache import PagedLatentCache
from router.model.layers import Layers, StepLayers
from router.model.native_layers import NativeLayers
from router.model.torch_layers import TorchLayers
from router.profiling import LayerTimer
from shards.adapters.adapter import Adapter
from shards.adapters.tokens import TokenAdapters, distinct_keys
from shards.checkpoint.weights import Checkpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, Kernels, kernels_on, torch_device
from shards.kernels.linear import Linear
from shards.kernels.native.families import takes
from shards.kernels.native.library import kernels_for
from shards.kernels.pinned import on_host


class MicroBatch(NamedTuple):
    """Tokens that travel the layers together."""

    batch: StepBatch
    hidden: torch.Tensor  # [num_rows, H] embeddings to start from
    layers: StepLayers
    expert_adapters: TokenAdapters | None = None  # those that change routed experts


class _Away(NamedTuple):
    """A micro-batch between dispatch and combine."""

    shared: torch.Tensor
    weights: torch.Tensor
    pending: PendingRows


def load_layers(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    num_threads: int,
    num_beside: int,
    dense: WeightFormat,
    on_layer: Callable[[int], None],
    device: str = CPU,
) -> Layers:
    """The fastest kind for this model, dtype and device; arguments as for ``Decoder``.

    Raises:
        ConfigError: Native kernels are needed to hold weights in less than bf16, or the device is
            not here.
    """
    config = checkpoint.config
    if kernels_on(device) is Kernels.TRITON:
        at = torch_device(device)
        from router.model.triton_layers import TritonLayers

        return TritonLayers(checkpoint, dtype, dense, at, on_layer)
    kernels = kernels_for(dtype, config.hidden_size)
    if kernels is not None and takes(config):
        return NativeLayers(kernels, checkpoint, num_threads, num_beside, dense, on_layer)
    if dense is not WeightFormat.BF16:
        raise ConfigError("dense", dense.label, "needs native kernels and bf16 arithmetic")
    return TorchLayers(checkpoint, dtype, num_threads, on_layer)


def head_of(
    checkpoint: Checkpoint, dtype: torch.dtype, num_threads: int, dense: WeightFormat, device: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``[rows, H]`` -> ``[rows, V]`` float32 by the head; arguments as for ``Decoder``."""
    stored = checkpoint.dense("head")
    if kernels_on(device) is Kernels.HOST:
        return Linear(stored.held_as(dense, dtype), num_threads, dense)
    from shards.kernels.gpu.linear import DeviceLinear
    from shards.kernels.gpu.weights import to_device

    weight = to_device(stored.kept_as(dense, dtype), dense, dtype, torch_device(device))
    linear = DeviceLinear(weight, dtype)
    return lambda x: linear(x, x.new_empty((len(x), weight.num_outputs), dtype=torch.float32))


class Decoder:
    """The text model without its routed experts."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        num_threads: int = 1,
        dense: WeightFormat = WeightFormat.BF16,
        on_progress: Callable[[int, int], None] | None = None,
        num_beside: int | None = None,
        device: str = CPU,
    ) -> None:
        """Load embedding, layers and head.

        Args:
            checkpoint: Where to read.
            dtype: bfloat16 or float32.
            num_threads: Who computes in native kernels; changes no bit.
            dense: How projections, shared experts and head are held.
            on_progress: Called with (layers loaded, layers).
            num_beside: Threads of what runs while the experts are away; unset: as many. Fewer where
                shards compute on the same cores.
            device: cpu, or cuda: where everything but images is computed.

        Raises:
            ConfigError: The device is not here.
        """
        self.config = checkpoint.config
        self.adapters: dict[int, Adapter] = {}  # by key; changed by the next two alone
        num_layers = self.config.num_layers
        self._embed = checkpoint.dense("embed").to(dtype).to(torch_device(device))
        self._head = head_of(checkpoint, dtype, num_threads, dense, device)

        def on_layer(loaded: int) -> None:
            if on_progress is not None:
                on_progress(loaded, num_layers)

        self._layers = load_layers(
            checkpoint, dtype, num_threads, num_beside or num_threads, dense, on_layer, device
        )

    def add_adapter(self, adapter: Adapter) -> None:
        """Compute with an adapter from the next step on; none runs meanwhile."""
        self._layers.add_adapter(adapter)
        self.adapters[adapter.key] = adapter

    def drop_adapter(self, key: int) -> None:
        """Forget an adapter that no sequence uses; no step runs meanwhile."""
        if self.adapters.pop(key, None) is not None:
            self._layers.drop_adapter(key)

    def _of_experts(self, adapters: TokenAdapters | None) -> TokenAdapters | None:
        """Those that change routed experts; None where nobody has one."""
        if adapters is None:
            return None
        keys = [key for key in distinct_keys(adapters) if self.adapters[key].routed]
        if not keys:
            return None
        known = np.array(keys, dtype=np.uint64)
        return np.where(np.isin(adapters, known), adapters, np.uint64(0))

    def experts_moved(self, num_beside: int) -> None:
        """The routed experts live elsewhere from the next step on; see ``num_beside`` above."""
        self._layers.experts_moved(num_beside)

    def micro_batch(self, batch: StepBatch, cache: PagedLatentCache) -> MicroBatch:
        """Embed a batch's tokens and prepare its way through the layers."""
        layers = self._layers.begin(batch, cache)
        adapters = self._of_experts(batch.adapters)
        return MicroBatch(batch, self.embed(batch.token_ids), layers, adapters)

    def forward(
        self, micros: Sequence[MicroBatch], experts: RoutedExperts, timer: LayerTimer
    ) -> list[torch.Tensor]:
        """``run_layers`` through all of the decoder's."""
        return run_layers(self.config.num_layers, micros, experts, timer)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """``[rows, H]`` of ``[rows]`` ids."""
        return self._embed.index_select(0, token_ids.to(self._embed.device))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, V]`` float32 of ``[rows, H]`` final states; in the host's memory."""
        return on_host(self._head(hidden))


def run_layers(
    num_layers: int, micros: Sequence[MicroBatch], experts: RoutedExperts, timer: LayerTimer
) -> list[torch.Tensor]:
    """Final hidden states ``[rows, H]`` (normed) of every micro-batch, tokens first.

    While one micro-batch's experts are away the next one attends. Takes ``hidden`` over.
    """
    states = [micro.layers.start(micro.hidden) for micro in micros]
    if len(micros) == 1:
        whole = micros[0].layers.through(states[0], experts, timer)
        if whole is not None:
            return [micros[0].layers.finish(whole)]
    away: list[_Away | None] = [None] * len(micros)
    for layer in range(num_layers):
        for i, micro in enumerate(micros):
            state = _joined(micro, states[i], away[i], timer)
            routed = micro.layers.front(layer, state, timer)
            with timer.part("dispatch"):
                pending = experts.begin(
                    layer, i, routed.normed, routed.expert_ids, micro.expert_adapters
                )
            with timer.part("shared expert"):
                shared = micro.layers.shared(layer, routed.normed)
            states[i], away[i] = routed.residual, _Away(shared, routed.weights, pending)
    joined = (_joined(m, x, a, timer) for m, x, a in zip(micros, states, away, strict=True))
    return [micro.layers.finish(x) for micro, x in zip(micros, joined, strict=True)]


def _joined(
    micro: MicroBatch, x: torch.Tensor, away: _Away | None, timer: LayerTimer
) -> torch.Tensor:
    if away is None:
        return x
    with timer.part("experts and wire"):
        rows = away.pending.wait()
    with timer.part("combine"):
        return micro.layers.join(x, away.shared, rows, away.weights)
