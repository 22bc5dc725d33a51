"""Layers by the GPU's kernels. What a step needs goes to the device once, at its beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from galerne.errors import ConfigError
from router.exchange.local import LocalExperts
from router.model.batch import StepBatch
from router.model.experts_port import RoutedExperts
from router.model.kv_cache import PagedLatentCache
from router.model.layers import Routed
from router.model.rope import yarn_frequencies
from router.model.triton_adapters import DenseChanges
from router.model.triton_decode import DecodeGraphs, DecodeWork
from router.model.triton_step import StepTokens, shared_tiles, step_tokens
from router.model.triton_weights import TritonLayer, load_layer
from router.profiling import LayerTimer
from shards.adapters.adapter import Adapter
from shards.bank import ExpertBank
from shards.checkpoint.weights import Checkpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import attention, grouped
from shards.kernels.gpu import rows as kernels
from shards.kernels.gpu.attention import AttentionShape
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.grouped import Layout
from shards.kernels.gpu.linear import DeviceLinear, batched
from shards.kernels.kinds import CUDA


class TritonLayers:
    """Implements ``Layers``."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        dense: WeightFormat,
        device: torch.device,
        on_layer: Callable[[int], None],
    ) -> None:
        """Load all layers to ``device``; ``on_layer`` gets the number of those loaded.

        ``dense`` is how projections and shared experts are held; fp8 stays as the file has it where
        this is bf16. Norms, gate and the small weights of the absorbed form are not quantised.

        Raises:
            ConfigError: The attention has more heads than a tile has rows.
        """
        self.config = config = checkpoint.config
        self.device = device
        self.shape = AttentionShape(
            heads=config.num_heads,
            nope=config.qk_nope_head_dim,
            rope=config.qk_rope_head_dim,
            latent=config.kv_lora_rank,
            value=config.v_head_dim,
        )
        if not self.shape.is_supported:
            raise ConfigError("device", device.type, f"kernels take {attention.ROWS} heads at most")
        self.frequencies = yarn_frequencies(config)
        # Recorded on GPUs; in the interpreter a graph would only compute padding besides.
        self.graphs = DecodeGraphs(records=True) if device.type == CUDA else None
        self.changes = DenseChanges(config, dtype, device)
        self.norm = checkpoint.dense("norm").to(torch.float32).to(device)
        self.layers: list[TritonLayer] = []
        for layer in range(config.num_layers):
            self.layers.append(load_layer(checkpoint, layer, dtype, dense, device))
            on_layer(layer + 1)

    def add_adapter(self, adapter: Adapter) -> None:
        """See ``Layers``."""
        for layer, change in adapter.shared.items():
            self.layers[layer].shared.put_change(adapter.key, 0, change)
        self.changes.add_adapter(adapter)

    def drop_adapter(self, key: int) -> None:
        """See ``Layers``."""
        self.changes.drop_adapter(key)
        for layer in self.layers:
            layer.shared.remove_changes(key)

    def experts_moved(self, num_beside: int) -> None:
        """See ``Layers``: what was recorded with those before would keep them on the device."""
        if self.graphs is not None:
            self.graphs.clear()

    def begin(self, batch: StepBatch, cache: PagedLatentCache) -> TritonStep:
        """See ``Layers``."""
        return TritonStep(self, step_tokens(self, batch), cache)

    def compute(
        self,
        cache: PagedLatentCache,
        experts: Sequence[TritonExperts],
        x: torch.Tensor,
        tokens: StepTokens,
    ) -> torch.Tensor:
        """``[T, H]`` norms after all layers, experts and all, without waiting for the device."""
        return TritonStep(self, tokens, cache).all_layers(x, experts)

    def decode_work(self, cache: PagedLatentCache, experts: Sequence[TritonExperts]) -> DecodeWork:
        """``compute`` for graphs."""

        def rooms() -> tuple[int, ...]:
            ours = (layer.shared for layer in self.layers)
            return self.changes.rooms + tuple(r for e in (*ours, *experts) for r in e.rooms)

        return DecodeWork(
            partial(self.compute, cache, experts), cache, experts, self.to_shared, rooms
        )

    def to_shared(self, num_tokens: int) -> Layout:
        """So many tokens, all by the shared expert."""
        rows = torch.arange(num_tokens, dtype=torch.int32, device=self.device)
        return Layout(rows, rows, shared_tiles(self, num_tokens).to(self.device))

    def next_norm(self, layer: int) -> torch.Tensor:
        """``[H]`` weight of the norm that follows a layer."""
        is_last = layer + 1 == len(self.layers)
        return self.norm if is_last else self.layers[layer + 1].input_norm


def experts_on_device(bank: ExpertBank, num_layers: int) -> list[TritonExperts] | None:
    """Of every layer, if all are on a device."""
    layers = [bank.layers.get(layer) for layer in range(num_layers)]
    on_device = [experts for experts in layers if isinstance(experts, TritonExperts)]
    return on_device if len(on_device) == num_layers else None


class TritonStep:
    """Implements ``StepLayers``. Residuals have a row for every token, none for padding."""

    def __init__(self, layers: TritonLayers, tokens: StepTokens, cache: PagedLatentCache) -> None:
        self._layers, self._tokens, self._cache = layers, tokens, cache
        self._eps = layers.config.norm_eps
        self._layer = 0  # the newest that has attended
        self._normed: torch.Tensor | None = None  # the residual's norm, for what comes next

    def start(self, hidden: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        x = hidden[: self._tokens.num_tokens]
        self._normed = kernels.rms_norm(x, self._layers.layers[0].input_norm, self._eps)
        return x

    def front(self, layer: int, x: torch.Tensor, timer: LayerTimer) -> Routed:
        """See ``StepLayers``; the rows stay on the device, the choice comes to the host."""
        self._layer = layer
        with timer.part("attention"):
            x, normed = self.attend(layer, x)
        with timer.part("gate"):
            expert_ids, weights = self.choose(layer, normed)
            host_ids = expert_ids.cpu().numpy().astype("int64")
        return Routed(x, normed, host_ids, weights)

    def attend(self, layer: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual after attention, and its norm."""
        weights, tokens, shape = self._layers.layers[layer], self._tokens, self._layers.shape
        assert self._normed is not None
        keys = self._cache.layer(layer)
        both = self._product(layer, "qkv_a", weights.qkv_a, self._normed)
        norms = weights.q_a_norm, weights.kv_a_norm, tokens.cos, tokens.sin
        q_a = kernels.store_latents(both, *norms, tokens.slots, keys, self._eps)
        q = self._product(layer, "q_b", weights.q_b, q_a)
        turn = tokens.cos, tokens.sin, tokens.factors
        absorbed = attention.queries(q, weights.u_k, *turn, shape)
        if tokens.adapted is not None:
            plain = q[0].view(len(q_a), shape.heads, -1)[..., : shape.nope]
            self._change(layer, "keys", absorbed[..., : shape.latent], plain, tokens.factors)
        mixed = self._attended(absorbed, keys)
        values = mixed.new_empty((len(mixed), shape.heads, shape.value))
        batched(mixed, weights.u_v, values)
        self._change(layer, "values", values, mixed)
        out = self._product(layer, "o", weights.o, values.flatten(1))
        return kernels.add_norm(x, out, weights.post_norm, self._eps)

    def _attended(self, absorbed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """``[T, H, latent]`` of the step's queries over the layer's cache."""
        tokens, shape = self._tokens, self._layers.shape
        mixed = absorbed.new_empty((len(absorbed), shape.heads, shape.latent))
        if tokens.prompts is not None:
            tiles, tables = tokens.prompts
            attention.attend_prompts(absorbed, keys, tables, tiles, mixed, shape)
        if tokens.decodes is not None:
            of, positions, tables, num_segments = tokens.decodes
            where = (tables, of, positions, num_segments)
            attention.attend_decodes(absorbed, keys, *where, mixed, shape)
        return mixed

    def _product(
        self, layer: int, name: str, product: DeviceLinear, x: torch.Tensor
    ) -> torch.Tensor:
        """``[P, T, N]`` in parts; where adapters change it, one that is the whole."""
        if self._tokens.adapted is None:
            return product.parts(x)
        whole = product(x)
        self._change(layer, name, whole[:, None], x[:, None])
        return whole[None]

    def _change(
        self,
        layer: int,
        name: str,
        y: torch.Tensor,
        x: torch.Tensor,
        factors: torch.Tensor | None = None,
    ) -> None:
        """Add what adapters change of a projection to rows that have one; see ``ChangeTable``."""
        if self._tokens.adapted is not None:
            table = self._layers.changes.table(layer, name)
            table.add(y, x, self._tokens.adapted.rows, factors)

    def choose(self, layer: int, normed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[T, K]`` experts (int32, ascending) and weights, on the device."""
        config = self._layers.config
        logits = self._layers.layers[layer].gate.parts(normed, torch.float32)
        how = config.num_experts_per_tok, config.routed_scaling_factor
        return grouped.choose(logits, *how, self._tokens.slots)

    def shared(self, layer: int, normed: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``."""
        experts, adapted = self._layers.layers[layer].shared, self._tokens.adapted
        if adapted is None:
            return experts.run_laid_out(normed, self._tokens.to_shared, len(normed))
        to_only = torch.zeros((len(normed), 1), dtype=torch.int32, device=normed.device)
        return experts.run_routed(normed, to_only, adapted.of_experts)[:, 0]

    def through(
        self, x: torch.Tensor, experts: RoutedExperts, timer: LayerTimer
    ) -> torch.Tensor | None:
        """See ``StepLayers``: where the experts are on the device too, it is never waited for."""
        if not isinstance(experts, LocalExperts) or not self._tokens.num_tokens:
            return None
        on_device = experts_on_device(experts.bank, len(self._layers.layers))
        if on_device is None:
            return None
        with timer.part("layers"):
            work = self._layers.decode_work(self._cache, on_device)
            normed = None
            if self._layers.graphs is not None:
                normed = self._layers.graphs.run(work, x, self._tokens)
            self._normed = work.compute(x, self._tokens) if normed is None else normed
        rows_per_layer = len(x) * self._layers.config.num_experts_per_tok
        experts.counters.rows_local += rows_per_layer * len(self._layers.layers)
        return x

    def all_layers(self, x: torch.Tensor, experts: Sequence[TritonExperts]) -> torch.Tensor:
        """``[T, H]`` norms after all layers of embeddings ``[T, H]``."""
        x = self.start(x)
        for layer, of_layer in enumerate(experts):
            x = self.whole_layer(layer, x, of_layer)
        return self.finish(x)

    def whole_layer(self, layer: int, x: torch.Tensor, experts: TritonExperts) -> torch.Tensor:
        """One layer, its experts on the device."""
        x, normed = self.attend(layer, x)
        expert_ids, weights = self.choose(layer, normed)
        self._layer = layer
        adapted = self._tokens.adapted
        if adapted is None and experts.can_share(self._layers.layers[layer].shared):
            shared, rows = experts.run_with_shared(normed, expert_ids)
            return self.join(x, shared, rows, weights)
        shared = self.shared(layer, normed)
        of = None if adapted is None else adapted.of_experts
        return self.join(x, shared, experts.run_routed(normed, expert_ids, of), weights)

    def join(
        self, x: torch.Tensor, shared: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See ``StepLayers``; of the layer whose front was the last."""
        norm = self._layers.next_norm(self._layer)
        x, self._normed = kernels.join_norm(x, shared, rows, weights, norm, self._eps)
        return x

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """See ``StepLayers``: the last join has made it."""
        assert self._normed is not None
        return self._normed
