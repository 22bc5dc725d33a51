"""The sizes of a model that cost time and memory."""

from __future__ import annotations

from dataclasses import dataclass

from shards.checkpoint.config import ModelConfig
from shards.kernels.formats import WeightFormat

_WIDE = WeightFormat.BF16.bits_per_weight / 8  # the gate, the absorbed form, cache and rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Weights and products (multiply-adds) of a model as it is held."""

    num_layers: int
    num_experts: int
    num_experts_per_tok: int
    hidden_size: int
    expert_weights: int  # of one routed expert of one layer
    expert_bytes: float
    layer_weights: int  # of a layer besides: projections, absorbed form, gate, shared expert
    layer_bytes: float
    head_weights: int  # of the head; the embedding is as large, and looked up
    head_bytes: float
    attention_products: int  # of one query with one key of the cache, a layer, all heads
    kv_bytes_per_token: float  # over all layers

    @property
    def row_bytes(self) -> float:
        """One token's hidden state on a link."""
        return self.hidden_size * _WIDE

    @property
    def routed_bytes(self) -> float:
        """One copy of all routed experts."""
        return self.num_layers * self.num_experts * self.expert_bytes

    @property
    def dense_bytes(self) -> float:
        """What every gateway holds."""
        return self.num_layers * self.layer_bytes + self.head_bytes + self.head_weights * _WIDE

    def num_touched(self, num_tokens: float) -> float:
        """Distinct experts of a layer that tokens touch if routing is uniform.

        A(b) = E (1 - (1 - k/E)^b); design, section 8.
        """
        missed: float = (1 - self.num_experts_per_tok / self.num_experts) ** num_tokens
        return self.num_experts * (1 - missed)


def shape_of(model: ModelConfig, experts: WeightFormat, dense: WeightFormat) -> ModelShape:
    """The shape of a checkpoint whose weights are held so.

    ``dense``: projections, shared experts and head.
    """
    heads, hidden = model.num_heads, model.hidden_size
    expert = 3 * model.expert_size * hidden
    narrow = (
        model.q_lora_rank * (hidden + heads * model.qk_head_dim)
        + model.latent_dim * hidden
        + heads * model.v_head_dim * hidden
        + 3 * model.shared_size * hidden
    )
    absorbed = heads * (model.qk_nope_head_dim + model.v_head_dim) * model.kv_lora_rank
    wide = absorbed + model.num_experts * hidden
    head = model.vocab_size * hidden
    width = dense.bits_per_weight / 8
    return ModelShape(
        num_layers=model.num_layers,
        num_experts=model.num_experts,
        num_experts_per_tok=model.num_experts_per_tok,
        hidden_size=hidden,
        expert_weights=expert,
        expert_bytes=expert * experts.bits_per_weight / 8,
        layer_weights=narrow + wide,
        layer_bytes=narrow * width + wide * _WIDE,
        head_weights=head,
        head_bytes=head * width,
        attention_products=heads * (model.latent_dim + model.kv_lora_rank),
        kv_bytes_per_token=model.num_layers * model.latent_dim * _WIDE,
    )
