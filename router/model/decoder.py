"""The decoder: embedding, layers with experts away, final head. Serving mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from router.exchange.combine import combine
from router.model.attention import LatentAttention
from router.model.batch import StepBatch
from router.model.experts_port import PendingRows, RoutedExperts
from router.model.gate import Gate
from router.model.kv_cache import PagedLatentCache
from router.model.norm import rms_norm
from router.model.rope import Rotation, query_temperature, yarn_frequencies
from router.profiling import LayerTimer
from shards.checkpoint.weights import Checkpoint
from shards.kernels.linear import Linear
from shards.kernels.row_invariant import pad_rows


class MicroBatch(NamedTuple):
    """Tokens that travel the layers together, and what their positions need."""

    batch: StepBatch
    hidden: torch.Tensor  # [num_rows, H] embeddings to start from
    rotation: Rotation
    temperature: torch.Tensor


class _Away(NamedTuple):
    """A micro-batch between dispatch and combine."""

    shared: torch.Tensor
    weights: torch.Tensor
    pending: PendingRows


class SharedExpert:
    """The expert that every token visits; runs in the gateway while the routed ones are away."""

    def __init__(self, checkpoint: Checkpoint, layer: int, dtype: torch.dtype) -> None:
        """Load gate and up as one weight."""
        names = ("shared_gate", "shared_up")
        parts = [checkpoint.dense(f"layers.{layer}.{n}").to(dtype) for n in names]
        self._gate_up = Linear(torch.cat(parts))
        self._down = Linear(checkpoint.dense(f"layers.{layer}.shared_down").to(dtype))

    def forward(self, x: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """``[rows, H]`` -> ``[rows, H]``; rows from ``num_tokens`` on are padding."""
        gate, up = self._gate_up(x, num_tokens).float().chunk(2, dim=-1)
        return self._down(functional.silu(gate).mul_(up).to(x.dtype), num_tokens)


class DecoderLayer:
    """One layer: attention, gate, experts."""

    def __init__(self, checkpoint: Checkpoint, layer: int, dtype: torch.dtype) -> None:
        """Load everything but the routed experts."""
        config = checkpoint.config
        self._eps = config.norm_eps
        self._layer = layer
        self._input_norm = checkpoint.dense(f"layers.{layer}.input_norm").to(torch.float32)
        self._post_norm = checkpoint.dense(f"layers.{layer}.post_norm").to(torch.float32)
        self._attention = LatentAttention(checkpoint, layer, dtype)
        self._gate = Gate(
            checkpoint.dense(f"layers.{layer}.gate").data,
            config.num_experts_per_tok,
            config.routed_scaling_factor,
        )
        self._shared = SharedExpert(checkpoint, layer, dtype)

    def attend_and_dispatch(
        self,
        x: torch.Tensor,
        micro: MicroBatch,
        index: int,
        cache: PagedLatentCache,
        experts: RoutedExperts,
        timer: LayerTimer,
    ) -> tuple[torch.Tensor, _Away]:
        """Residual after attention, and the experts' share on its way."""
        num_tokens = micro.batch.num_tokens
        with timer.part("attention"):
            normed = rms_norm(x, self._input_norm, self._eps)
            x = x + self._attention.forward(
                normed, micro.batch, micro.rotation, micro.temperature, cache
            )
        with timer.part("gate"):
            normed = rms_norm(x, self._post_norm, self._eps)
            chosen = self._gate.choose(normed)
            expert_ids = chosen.expert_ids[:num_tokens].numpy()
        with timer.part("dispatch"):
            pending = experts.begin(self._layer, index, normed[:num_tokens], expert_ids)
        with timer.part("shared expert"):
            shared = self._shared.forward(normed, num_tokens)
        return x, _Away(shared, chosen.weights[:num_tokens], pending)

    def join(self, x: torch.Tensor, away: _Away, timer: LayerTimer) -> torch.Tensor:
        """Residual after the experts. Padding rows get the shared expert's part only."""
        with timer.part("experts and wire"):
            rows = away.pending.wait()
        with timer.part("combine"):
            num_tokens = len(rows)
            mixed = combine(away.shared[:num_tokens], rows, away.weights)
            out = x + away.shared
            out[:num_tokens] = x[:num_tokens] + mixed
            return out


class Decoder:
    """The text model without its routed experts."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Load embedding, layers and head; ``on_progress`` gets (layers loaded, layers)."""
        self.config = checkpoint.config
        self._embed = checkpoint.dense("embed").to(dtype)
        self._norm = checkpoint.dense("norm").to(torch.float32)
        self._head = Linear(checkpoint.dense("head").to(dtype))
        self._frequencies = yarn_frequencies(self.config)
        self._layers = []
        for layer in range(self.config.num_layers):
            self._layers.append(DecoderLayer(checkpoint, layer, dtype))
            if on_progress is not None:
                on_progress(layer + 1, self.config.num_layers)

    def micro_batch(self, batch: StepBatch) -> MicroBatch:
        """Embed a batch's tokens and prepare its rotations."""
        return MicroBatch(
            batch,
            self._embed[batch.token_ids],
            Rotation(self._frequencies, batch.positions),
            query_temperature(self.config, batch.positions),
        )

    def forward(
        self,
        micros: Sequence[MicroBatch],
        cache: PagedLatentCache,
        experts: RoutedExperts,
        timer: LayerTimer,
    ) -> list[torch.Tensor]:
        """Final hidden states ``[num_rows, H]`` (normed) of every micro-batch.

        While one micro-batch's experts are away the next one attends.
        """
        states = [micro.hidden for micro in micros]
        away: list[_Away | None] = [None] * len(micros)
        for layer in self._layers:
            for i, micro in enumerate(micros):
                state = self._joined(layer, states[i], away[i], timer)
                states[i], away[i] = layer.attend_and_dispatch(
                    state, micro, i, cache, experts, timer
                )
        last = self._layers[-1]
        joined = [self._joined(last, x, a, timer) for x, a in zip(states, away, strict=True)]
        return [rms_norm(x, self._norm, self.config.norm_eps) for x in joined]

    @staticmethod
    def _joined(
        layer: DecoderLayer, x: torch.Tensor, away: _Away | None, timer: LayerTimer
    ) -> torch.Tensor:
        return x if away is None else layer.join(x, away, timer)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, V]`` float32 of ``[rows, H]`` final states."""
        return self._head(pad_rows(hidden), len(hidden))[: len(hidden)].float()
