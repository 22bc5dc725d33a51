"""The model in float32 and plain torch, one sequence at a time: the oracle of every fast path.

Source: model reference, sections 2 and 3. Nothing here is shared with the serving mode but the
checkpoint, the rotary frequencies and the vision tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from router.model.rope import Rotation, query_temperature, softmax_scale, yarn_frequencies
from shards.checkpoint.weights import Checkpoint

MlaForm = Literal["expanded", "absorbed"]


class ReferenceOutput(NamedTuple):
    """Everything the fixtures know about a prompt of T tokens."""

    logits: torch.Tensor  # [T, V]
    hidden: torch.Tensor  # [T, H], after the final norm
    gate_ids: torch.Tensor  # [L, T, K], heaviest first
    gate_weights: torch.Tensor  # [L, T, K]


class ReferenceModel:
    """Small 4's text model, obvious and slow; both forms of latent attention."""

    def __init__(self, checkpoint: Checkpoint, form: MlaForm = "expanded") -> None:
        """Weights are read, as float32, where they are used."""
        self._checkpoint = checkpoint
        self._config = checkpoint.config
        self._form = form

    def _w(self, name: str) -> torch.Tensor:
        return self._checkpoint.dense(name).to(torch.float32)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return (
            x / (x.square().mean(-1, keepdim=True) + self._config.norm_eps).sqrt() * self._w(name)
        )

    @torch.inference_mode()
    def forward(
        self, token_ids: Sequence[int], image_rows: Sequence[tuple[int, torch.Tensor]] = ()
    ) -> ReferenceOutput:
        """Run a whole prompt.

        Args:
            token_ids: T ids.
            image_rows: (position, ``[H]`` feature) of every [IMG] token.
        """
        x = self._w("embed")[torch.tensor(token_ids)]
        for position, feature in image_rows:
            x[position] = feature
        ids, weights = [], []
        for layer in range(self._config.num_layers):
            prefix = f"layers.{layer}."
            x = x + self._attention(self._norm(x, prefix + "input_norm"), prefix)
            normed = self._norm(x, prefix + "post_norm")
            chosen_ids, chosen_weights = self._gate(normed, prefix)
            x = x + self._experts(normed, layer, chosen_ids, chosen_weights)
            ids.append(chosen_ids)
            weights.append(chosen_weights)
        hidden = self._norm(x, "norm")
        logits = hidden @ self._w("head").T
        return ReferenceOutput(logits, hidden, torch.stack(ids), torch.stack(weights))

    def _attention(self, h: torch.Tensor, prefix: str) -> torch.Tensor:
        config, num_tokens = self._config, len(h)
        positions = np.arange(num_tokens)
        rotation = Rotation(yarn_frequencies(config), positions)
        q = (
            self._norm(h @ self._w(prefix + "q_a").T, prefix + "q_a_norm")
            @ self._w(prefix + "q_b").T
        )
        q = q.view(num_tokens, config.num_heads, config.qk_head_dim)
        q_n, q_r = q[..., : config.qk_nope_head_dim], q[..., config.qk_nope_head_dim :]
        tau = query_temperature(config, positions)[:, None, None]
        q_n, q_r = q_n * tau, rotation.apply(q_r) * tau
        a = h @ self._w(prefix + "kv_a").T
        c = self._norm(a[:, : config.kv_lora_rank], prefix + "kv_a_norm")
        k_r = rotation.apply(a[:, config.kv_lora_rank :])
        kv_b = self._w(prefix + "kv_b").view(config.num_heads, -1, config.kv_lora_rank)
        u_k, u_v = kv_b[:, : config.qk_nope_head_dim], kv_b[:, config.qk_nope_head_dim :]
        if self._form == "expanded":
            k_n = torch.einsum("hdc,tc->thd", u_k, c)
            scores = torch.einsum("qhd,khd->hqk", q_n, k_n)
        else:
            scores = torch.einsum("qhc,kc->hqk", torch.einsum("qhd,hdc->qhc", q_n, u_k), c)
        scores = (scores + torch.einsum("qhd,kd->hqk", q_r, k_r)) * softmax_scale(config)
        causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
        p = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1)
        if self._form == "expanded":
            out = torch.einsum("hqk,khd->qhd", p, torch.einsum("hdc,tc->thd", u_v, c))
        else:
            out = torch.einsum("hdc,qhc->qhd", u_v, torch.einsum("hqk,kc->qhc", p, c))
        return out.reshape(num_tokens, -1) @ self._w(prefix + "o").T

    def _gate(self, h: torch.Tensor, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
        p = (h @ self._w(prefix + "gate").T).softmax(dim=-1)
        scores, ids = torch.sort(p, dim=-1, descending=True, stable=True)
        top = scores[:, : self._config.num_experts_per_tok]
        weights = top / top.sum(-1, keepdim=True) * self._config.routed_scaling_factor
        return ids[:, : self._config.num_experts_per_tok], weights

    def _experts(
        self, h: torch.Tensor, layer: int, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        prefix = f"layers.{layer}."
        shared = [self._w(prefix + n) for n in ("shared_gate", "shared_up", "shared_down")]
        total = _mlp(h, *shared)
        for expert in sorted(set(ids.flatten().tolist())):
            stored = self._checkpoint.expert(layer, expert)
            gate_up = torch.cat([w.to(torch.float32) for w in stored.gate_up])
            gate, up = gate_up.chunk(2)
            tokens, places = (ids == expert).nonzero(as_tuple=True)
            rows = _mlp(h[tokens], gate, up, stored.down.to(torch.float32))
            total[tokens] += rows * weights[tokens, places, None]
        return total


def _mlp(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return (functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
