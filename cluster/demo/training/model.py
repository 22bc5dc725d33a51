"""The text model for training: expanded latent attention, full sequences, float32 weights.

Source: model reference, section 2. Weights have the names of ``shards.checkpoint.names``, so that
``state_dict`` is what the checkpoint writer takes; only the routed experts are stacked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cluster.demo.training.experts import routed_experts
from router.model.rope import Rotation, softmax_scale, yarn_frequencies
from shards.checkpoint.config import ModelConfig


class Rows(NamedTuple):
    """N tokens of many sequences in one flat batch: groups of equally padded sequences."""

    ids: torch.Tensor  # [N] int64
    is_token: torch.Tensor  # [N], false where a sequence is padded (at its end)
    groups: tuple[tuple[int, int], ...]  # (sequences, length) of consecutive rows


class Model(nn.Module):
    """Token ids -> hidden states after the final norm. The head is the embedding, tied."""

    def __init__(self, config: ModelConfig) -> None:
        """Random weights from torch's global generator."""
        super().__init__()
        self.config = config
        # Tied to the head, which wants small rows; the residual stream wants large ones.
        self.embed_scale = config.hidden_size**0.5
        self.embed = nn.Parameter(torch.randn(config.vocab_size, config.hidden_size) * 0.05)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))

    def forward(
        self, rows: Rows, images: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a batch; ``images`` ``[I, H]`` are the features of all [IMG] tokens, in order.

        Returns:
            ``[N, H]`` and, ``[L]``, how uneven each layer's load is: 1 if it is even (Switch
            Transformer, eq. 4).
        """
        x = functional.embedding(rows.ids, self.embed) * self.embed_scale
        if images is not None and self.config.vision is not None:
            places = (rows.ids == self.config.vision.image_token_id)[:, None]
            x = x.masked_scatter(places, images)
        cos, sin = rotary(self.config, rows)
        balances = []
        for layer in self.layers:
            x, balance = layer(x, rows, cos, sin)
            balances.append(balance)
        return rms_norm(x, self.norm, self.config.norm_eps), torch.stack(balances)


class Layer(nn.Module):
    """Attention and experts of one layer."""

    input_norm: nn.Parameter
    post_norm: nn.Parameter
    q_a_norm: nn.Parameter
    kv_a_norm: nn.Parameter

    def __init__(self, config: ModelConfig) -> None:
        """Linears with deviation fan-in^-0.5, outputs to the residual smaller by sqrt(2 L)."""
        super().__init__()
        self.config = config
        hidden, size, heads = config.hidden_size, config.expert_size, config.num_heads
        depth = (2 * config.num_layers) ** -0.5
        kv_width = config.qk_nope_head_dim + config.v_head_dim
        self.q_a = linear(config.q_lora_rank, hidden)
        self.q_b = linear(heads * config.qk_head_dim, config.q_lora_rank)
        self.kv_a = linear(config.latent_dim, hidden)
        self.kv_b = linear(heads * kv_width, config.kv_lora_rank)
        self.o = linear(hidden, heads * config.v_head_dim, depth)
        self.gate = linear(config.num_experts, hidden)
        self.shared_gate = linear(config.shared_size, hidden)
        self.shared_up = linear(config.shared_size, hidden)
        self.shared_down = linear(hidden, config.shared_size, depth)
        self.experts_gate_up = linear(2 * size, hidden, stack=config.num_experts)
        self.experts_down = linear(hidden, size, depth, stack=config.num_experts)
        for name, width in (
            ("input_norm", hidden),
            ("post_norm", hidden),
            ("q_a_norm", config.q_lora_rank),
            ("kv_a_norm", config.kv_lora_rank),
        ):
            self.register_parameter(name, nn.Parameter(torch.ones(width)))

    def forward(
        self, x: torch.Tensor, rows: Rows, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``[N, H]`` -> the same, and how uneven the load is."""
        eps = self.config.norm_eps
        x = x + self._attend(rms_norm(x, self.input_norm, eps), rows, cos, sin)
        normed = rms_norm(x, self.post_norm, eps)
        routed, balance = self._route(normed, rows.is_token)
        gated = functional.silu(normed @ self.shared_gate.T) * (normed @ self.shared_up.T)
        return x + routed + gated @ self.shared_down.T, balance

    def _attend(
        self, h: torch.Tensor, rows: Rows, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        config = self.config
        heads, nope, rope = config.num_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        q_a = rms_norm(h @ self.q_a.T, self.q_a_norm, config.norm_eps)
        q_b = self.q_b.view(heads, nope + rope, -1)

        def per_head(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return (x @ weights.flatten(0, 1).T).view(len(x), heads, -1)

        q_r = torch.addcmul(
            per_head(q_a, q_b[:, nope:]) * cos[:, None],
            per_head(q_a, _turn(q_b[:, nope:])),
            sin[:, None],
        )
        c = rms_norm(h @ self.kv_a[: config.kv_lora_rank].T, self.kv_a_norm, config.norm_eps)
        w_r = self.kv_a[config.kv_lora_rank :]
        k_r = torch.addcmul((h @ w_r.T) * cos, h @ _turn(w_r).T, sin)
        kv_b = self.kv_b.view(heads, nope + config.v_head_dim, -1)
        q = torch.cat((per_head(q_a, q_b[:, :nope]), q_r), -1)
        k = torch.cat((per_head(c, kv_b[:, :nope]), k_r[:, None].expand(-1, heads, -1)), -1)
        v = per_head(c, kv_b[:, nope:])
        return self._mix(q, k, v, rows.groups).flatten(1) @ self.o.T

    def _mix(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: tuple[tuple[int, int], ...]
    ) -> torch.Tensor:
        """Causal attention within every sequence: ``[N, heads, dim]`` each."""
        scale, mixed, start = softmax_scale(self.config), [], 0
        for count, length in groups:
            rows = slice(start, start + count * length)
            # [sequences, heads, length, dim]
            part = [x[rows].view(count, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)]
            out = functional.scaled_dot_product_attention(
                part[0], part[1], part[2], is_causal=True, scale=scale
            )
            mixed.append(out.transpose(1, 2).flatten(0, 1))
            start = rows.stop
        return torch.cat(mixed)

    def _route(self, h: torch.Tensor, is_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = h @ self.gate.T
        top, ids = logits.topk(self.config.num_experts_per_tok, dim=-1)
        weights = top.softmax(dim=-1)
        out = routed_experts(h, ids, weights, self.experts_gate_up, self.experts_down)
        count = is_token.sum()
        share = (logits.softmax(dim=-1) * is_token[:, None]).sum(0) / count
        load = torch.bincount(ids[is_token].flatten(), minlength=self.config.num_experts)
        return out, (share * load).sum() * len(load) / load.sum()


def rotary(config: ModelConfig, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine ``[N, rope]`` of every row's position in its sequence."""
    positions = np.concatenate([np.tile(np.arange(t), b) for b, t in rows.groups])
    rotation = Rotation(yarn_frequencies(config), positions)
    device = rows.ids.device
    cos = rotation.cos.repeat_interleave(2, 1).to(device)
    return cos, rotation.sin.repeat_interleave(2, 1).to(device)


def _turn(rows: torch.Tensor) -> torch.Tensor:
    """Weights whose output is the input's pairs turned by 90 degrees: (a, b) -> (-b, a)."""
    pairs = rows.view(*rows.shape[:-2], -1, 2, rows.shape[-1])
    return torch.stack((-pairs[..., 1, :], pairs[..., 0, :]), dim=-2).flatten(-3, -2)


def linear(out: int, fan_in: int, gain: float = 1.0, stack: int = 0) -> nn.Parameter:
    """``[out, fan_in]``, or ``stack`` of them, with deviation gain * fan-in^-0.5."""
    shape = (stack, out, fan_in) if stack else (out, fan_in)
    return nn.Parameter(torch.randn(shape) * (gain / math.sqrt(fan_in)))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``w * x / sqrt(mean(x^2) + eps)`` over the last dimension."""
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)
