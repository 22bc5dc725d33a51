"""Sizes of a checkpoint of the Mistral Small 4 family, whatever layout they were read from."""

from __future__ import annotations

from dataclasses import dataclass

from shards.kernels.formats import WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """Pixtral-type vision tower and projector.

    Source: model reference, section 3.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_channels: int
    patch_size: int
    image_size: int  # longest side in pixels after resizing
    spatial_merge_size: int
    rope_theta: float
    norm_eps: float = 1e-5
    image_token_id: int = 10
    image_break_token_id: int = 12
    image_end_token_id: int = 13

    @property
    def head_dim(self) -> int:
        """Width of an attention head of the tower."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of the text model.

    Source: model reference, section 1. Names follow Hugging Face where a name exists.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    num_experts: int
    num_experts_per_tok: int
    num_shared_experts: int
    expert_size: int  # moe_intermediate_size, routed and shared
    routed_scaling_factor: float
    norm_eps: float
    rope_theta: float
    yarn_factor: float
    yarn_original_max_positions: int
    yarn_beta_fast: float
    yarn_beta_slow: float
    yarn_apply_scale: bool  # true: logits times (0.1 ln factor + 1)^2; false in Small 4
    llama4_beta: float
    llama4_original_max_positions: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    is_fp8: bool
    # As ``galerne quantize`` has written routed experts, and projections, shared experts and head.
    experts_held: WeightFormat = WeightFormat.BF16
    dense_held: WeightFormat = WeightFormat.BF16
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 11
    vision: VisionConfig | None = None

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Numbers in the KV cache per token and layer: latent after its norm, key after RoPE."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def shared_size(self) -> int:
        """Width of the shared expert (several shared experts are stored as one wide one)."""
        return self.expert_size * self.num_shared_experts
