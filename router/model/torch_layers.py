"""Layers in torch: for float32, for machines without native kernels, and as their reference.

Rows are padded to ``row_invariant.TILE``; padding rows stay finite and mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from router.exchange.combine import combine
from router.model.adapted_rows import AdaptedRows
from router.model.attention import LatentAttention
from router.model.batch import StepBatch
from router.model.experts_port import RoutedExperts
from router.model.gate import Gate
from router.model.kv_cache import PagedLatentCache
from router.model.layers import Routed
from router.model.norm import rms_norm
from router.model.rope import Rotation, query_temperature, yarn_frequencies
from router.model.shared_expert import run_shared, shared_expert
from router.profiling import LayerTimer
from shards.adapters.adapter import Adapter
from shards.checkpoint.weights import Checkpoint


class _Layer:
    """Weights of one layer."""

    def __init__(
        self, checkpoint: Checkpoint, layer: int, dtype: torch.dtype, num_threads: int
    ) -> None:
        config = checkpoint.config
        self.input_norm = checkpoint.dense(f"layers.{layer}.input_norm").to(torch.float32)
        self.post_norm = checkpoint.dense(f"layers.{layer}.post_norm").to(torch.float32)
        self.attention = LatentAttention(checkpoint, layer, dtype)
        self.shared = shared_expert(checkpoint, layer, dtype, num_threads)
        self.gate = Gate(
            checkpoint.dense(f"layers.{layer}.gate").data,
            config.num_experts_per_tok,
            config.routed_scaling_factor,
        )


class TorchLayers:
    """Implements ``Layers``."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        num_threads: int,
        on_layer: Callable[[int], None],
    ) -> None:
        """Load all layers; ``on_layer`` gets the number of those loaded."""
        self.config = checkpoint.config
        self.norm = checkpoint.dense("norm").to(torch.float32)
        self.frequencies = yarn_frequencies(self.config)
        self.layers: list[_Layer] = []
        self.adapters: dict[int, Adapter] = {}
        for layer in range(self.config.num_layers):
            self.layers.append(_Layer(checkpoint, layer, dtype, num_threads))
            on_layer(layer + 1)

    def add_adapter(self, adapter: Adapter) -> None:
        """See ``Layers``."""
        for layer, change in adapter.shared.items():
            self.layers[layer].shared.put_change(adapter.key, 0, change)
        self.adapters[adapter.key] = adapter

    def drop_adapter(self, key: int) -> None:
        """See ``Layers``."""
        del self.adapters[key]
        for layer in self.layers:
            layer.shared.remove_changes(key)

    def experts_moved(self, num_beside: int) -> None:
        """See ``Layers``; torch's threads stay as they are."""

    def begin(self, batch: StepBatch, cache: PagedLatentCache) -> _Step:
        """See ``Layers``."""
        return _Step(self, batch, cache)


class _Step:
    """Implements ``StepLayers``."""

    def __init__(self, layers: TorchLayers, batch: StepBatch, cache: PagedLatentCache) -> None:
        self._layers, self._batch, self._cache = layers, batch, cache
        self._eps = layers.config.norm_eps
        self._adapted = AdaptedRows(batch.adapters, layers.adapters)
        self._rotation = Rotation(layers.frequencies, batch.positions)
        self._temperature = query_temperature(layers.config, batch.positions)

    def start(self, hidden: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return hidden

    def front(self, layer: int, x: torch.Tensor, timer: LayerTimer) -> Routed:
        """See ``StepLayers``."""
        weights, num_tokens = self._layers.layers[layer], self._batch.num_tokens
        with timer.part("attention"):
            normed = rms_norm(x, weights.input_norm, self._eps)
            x = x + weights.attention.forward(
                *(normed, self._batch, self._rotation, self._temperature, self._cache),
                self._adapted,
            )
        with timer.part("gate"):
            normed = rms_norm(x, weights.post_norm, self._eps)
            chosen = weights.gate.choose(normed)
            expert_ids = chosen.expert_ids[:num_tokens].numpy()
        return Routed(x, normed[:num_tokens], expert_ids, chosen.weights[:num_tokens])

    def shared(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return run_shared(self._layers.layers[layer].shared, normed, self._batch.adapters)

    def through(
        self, x: torch.Tensor, experts: RoutedExperts, timer: LayerTimer
    ) -> torch.Tensor | None:
        """See ``StepLayers``."""

    def join(
        self, x: torch.Tensor, shared: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See ``StepLayers``."""
        out = x.clone()
        out[: len(rows)] += combine(shared, rows, weights)
        return out

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return rms_norm(x, self._layers.norm, self._eps)
