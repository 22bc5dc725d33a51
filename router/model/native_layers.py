"""Layers by the native kernels: one call from a residual to the gate's choice."""

from __future__ import annotations

from collections.abc import Callable

import torch

from router.exchange.local import LocalExperts
from router.model.batch import StepBatch
from router.model.experts_port import RoutedExperts
from router.model.kv_cache import PagedLatentCache
from router.model.layers import Routed
from router.model.rope import softmax_scale, yarn_frequencies
from router.model.shared_expert import run_shared, shared_expert
from router.profiling import LayerTimer
from shards.adapters.adapter import Adapter
from shards.adapters.low_rank import LowRank, stacked
from shards.adapters.tokens import TokenAdapters, distinct_keys
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.weights import Checkpoint
from shards.kernels.experts import LayerExperts, NativeExperts
from shards.kernels.formats import WeightFormat
from shards.kernels.native.adapters import ExpertStruct, LayerChanges, StepChanges
from shards.kernels.native.families import MAX_THREADS
from shards.kernels.native.layer import (
    PARTS,
    LayerSizes,
    LayerWeights,
    NativeLayer,
    NativeStep,
    Rotary,
    StepTokens,
    Workspace,
)
from shards.kernels.native.library import NativeKernels
from shards.kernels.native.local import LOCAL_PARTS, LocalLayers
from shards.kernels.native.packing import pack, pack_rows
from shards.kernels.quantise import Stored

_ROWS_FOR_THREADS = 64


class NativeLayers:
    """Implements ``Layers``."""

    def __init__(
        self,
        kernels: NativeKernels,
        checkpoint: Checkpoint,
        num_threads: int,
        num_beside: int,
        dense: WeightFormat,
        on_layer: Callable[[int], None],
    ) -> None:
        """Load and pack all layers; ``on_layer`` gets the number of those loaded.

        ``dense`` is how projections and shared experts are held. Norms, gate and the small weights
        of the absorbed form stay as they are. Shared experts have ``num_beside`` threads.
        """
        self.kernels = kernels
        self.num_threads = min(num_threads, MAX_THREADS)
        self.config = checkpoint.config
        self.norm = checkpoint.dense("norm").to(torch.float32).contiguous()
        self.rotary = Rotary(
            frequencies=yarn_frequencies(self.config),
            period=self.config.llama4_original_max_positions,
            beta=self.config.llama4_beta,
            scale=softmax_scale(self.config),
        )
        self.layers = []
        self.workspace = Workspace()
        self.shared: list[LayerExperts] = []
        self._adapters: dict[int, tuple[LayerChanges, int]] = {}  # by key, with the largest rank
        self._local: tuple[PagedLatentCache, LocalExperts, LocalLayers] | None = None
        sizes = _sizes(self.config, dense)
        for layer in range(self.config.num_layers):
            self.layers.append(NativeLayer(sizes, _weights(checkpoint, layer, dense)))
            self.shared.append(shared_expert(checkpoint, layer, torch.bfloat16, num_beside, dense))
            on_layer(layer + 1)

    def begin(self, batch: StepBatch, cache: PagedLatentCache) -> _Step:
        """See ``Layers``."""
        return _Step(self, batch, cache)

    def add_adapter(self, adapter: Adapter) -> None:
        """See ``Layers``."""
        for layer, change in adapter.shared.items():
            self.shared[layer].put_change(adapter.key, 0, change)
        changes = LayerChanges(self._changes(adapter, i) for i in range(len(self.layers)))
        self._adapters[adapter.key] = changes, max(changes.max_rank, adapter.rank)

    def _changes(
        self, adapter: Adapter, layer: int
    ) -> tuple[dict[str, LowRank | None], ExpertStruct]:
        q_a, q_b, kv_a, kv_b, o = (
            adapter.dense.get((layer, name)) for name in ("q_a", "q_b", "kv_a", "kv_b", "o")
        )
        qkv_a = stacked([q_a, kv_a], [self.config.q_lora_rank, self.config.latent_dim])
        shared = self.shared[layer]
        table = shared.changes_of(adapter.key) if isinstance(shared, NativeExperts) else None
        fields = {"qkv_a": qkv_a, "q_b": q_b, "kv_b": kv_b, "o": o}
        return fields, ExpertStruct() if table is None else table[0]

    def drop_adapter(self, key: int) -> None:
        """See ``Layers``."""
        del self._adapters[key]
        for experts in self.shared:
            experts.remove_changes(key)

    def step_changes(self, adapters: TokenAdapters | None) -> StepChanges | None:
        """For a step's tokens, all of whose adapters are here."""
        if adapters is None:
            return None
        keys = distinct_keys(adapters)
        layers = {key: self._adapters[key][0] for key in keys}
        return StepChanges(adapters, layers, max(self._adapters[key][1] for key in keys))

    def point_to(self, experts: LocalExperts, adapters: TokenAdapters) -> None:
        """Let the changes of a step's adapters know those of routed experts in this process."""
        layers = [experts.bank.layers[i] for i in range(len(self.layers))]
        native = [e for e in layers if isinstance(e, NativeExperts)]
        for key in distinct_keys(adapters):
            tables = [e.changes_of(key) for e in native]
            self._adapters[key][0].set_routed([t.address if t is not None else 0 for t in tables])

    def experts_moved(self, num_beside: int) -> None:
        """See ``Layers``."""
        self._local = None
        for experts in self.shared:
            if isinstance(experts, NativeExperts):
                experts.num_threads = num_beside

    def with_local(self, experts: LocalExperts, cache: PagedLatentCache) -> LocalLayers | None:
        """All layers with experts of this process; None where these are not of native kernels."""
        if self._local is None or self._local[0] is not cache or self._local[1] is not experts:
            routed = [experts.bank.layers[i] for i in range(len(self.layers))]
            shared = [e for e in self.shared if isinstance(e, NativeExperts)]
            native = [e for e in routed if isinstance(e, NativeExperts)]
            if not len(shared) == len(native) == len(self.layers):
                return None
            caches = [cache.layer(i) for i in range(len(self.layers))]
            local = LocalLayers(self.kernels, self.layers, caches, shared, native, self.workspace)
            self._local = cache, experts, local
        return self._local[2]


def _sizes(config: ModelConfig, dense: WeightFormat) -> LayerSizes:
    return LayerSizes(
        hidden=config.hidden_size,
        num_heads=config.num_heads,
        q_rank=config.q_lora_rank,
        kv_rank=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        v_dim=config.v_head_dim,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        dense_format=dense,
        eps=config.norm_eps,
        routed_scale=config.routed_scaling_factor,
    )


def _weights(checkpoint: Checkpoint, layer: int, dense: WeightFormat) -> LayerWeights:
    config = checkpoint.config

    def norm(name: str) -> torch.Tensor:
        return checkpoint.dense(f"layers.{layer}.{name}").to(torch.float32)

    def weight(name: str) -> torch.Tensor:
        return checkpoint.dense(f"layers.{layer}.{name}").to(torch.bfloat16)

    def held(name: str) -> Stored:
        return checkpoint.dense(f"layers.{layer}.{name}").held_as(dense, torch.bfloat16)

    heads = weight("kv_b").view(config.num_heads, -1, config.kv_lora_rank)
    return LayerWeights(
        input_norm=norm("input_norm"),
        q_norm=norm("q_a_norm"),
        kv_norm=norm("kv_a_norm"),
        post_norm=norm("post_norm"),
        qkv_a=pack_rows([held("q_a"), held("kv_a")], dense),  # both read the same rows
        q_b=pack(held("q_b"), dense),
        u_k=[pack(head[: config.qk_nope_head_dim].t(), stays=False) for head in heads],
        u_v=[pack(head[config.qk_nope_head_dim :], stays=False) for head in heads],
        o=pack(held("o"), dense),
        gate=pack(weight("gate")),
    )


class _Step:
    """Implements ``StepLayers``."""

    def __init__(self, layers: NativeLayers, batch: StepBatch, cache: PagedLatentCache) -> None:
        self._layers, self._cache = layers, cache
        self._num_tokens, self._adapters = batch.num_tokens, batch.adapters
        shape = (cache.num_blocks, cache.block_size)
        self._step = NativeStep(
            *(layers.kernels, layers.layers[0], _tokens(batch), layers.rotary, shape),
            *(layers.workspace, layers.num_threads, layers.step_changes(batch.adapters)),
        )

    def start(self, hidden: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return hidden[: self._num_tokens]

    def front(self, layer: int, x: torch.Tensor, timer: LayerTimer) -> Routed:
        """See ``StepLayers``."""
        step = self._step
        step.seconds[:] = 0.0
        normed, expert_ids, weights = step.run(
            self._layers.layers[layer], x, self._cache.layer(layer), layer
        )
        timer.add(PARTS, step.seconds.tolist())
        return Routed(x, normed, expert_ids, torch.from_numpy(weights))

    def shared(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return run_shared(self._layers.shared[layer], normed, self._adapters)

    def through(
        self, x: torch.Tensor, experts: RoutedExperts, timer: LayerTimer
    ) -> torch.Tensor | None:
        """See ``StepLayers``."""
        if not isinstance(experts, LocalExperts):
            return None
        local = self._layers.with_local(experts, self._cache)
        if local is None:
            return None
        if self._adapters is not None:
            self._layers.point_to(experts, self._adapters)
        num_layers, top_k = len(self._layers.layers), self._layers.config.num_experts_per_tok
        experts.counters.rows_local += self._num_tokens * top_k * num_layers
        timer.add(LOCAL_PARTS, local.run(self._step, x))
        return x

    def join(
        self, x: torch.Tensor, shared: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See ``StepLayers``."""
        # Few rows take less time than a second thread takes to wake.
        num_threads = self._layers.num_threads if len(x) >= _ROWS_FOR_THREADS else 1
        self._layers.kernels.combine(x, shared, rows, weights, num_threads)
        return x

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        return self._layers.kernels.rms_norm(x, self._layers.norm, self._layers.config.norm_eps)


def _tokens(batch: StepBatch) -> StepTokens:
    chunks, size = batch.chunks, batch.block_size
    return StepTokens(
        positions=batch.positions[: batch.num_tokens],
        slots=batch.slots,
        first_row=batch.first_row,
        start=[c.start for c in chunks],
        tables=[c.block_ids[: -(-(c.start + len(c.token_ids)) // size)] for c in chunks],
    )
