"""One layer's weights on a GPU, but for its routed experts."""

from __future__ import annotations

from typing import NamedTuple

import torch

from shards.checkpoint.weights import Checkpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu.experts import TritonExperts
from shards.kernels.gpu.linear import DeviceLinear, parts_for
from shards.kernels.gpu.weights import stacked, to_device
from shards.kernels.quantise import Stored


class TritonLayer(NamedTuple):
    """H heads; notation as in the model reference, section 2."""

    input_norm: torch.Tensor  # norms: float32
    post_norm: torch.Tensor
    q_a_norm: torch.Tensor
    kv_a_norm: torch.Tensor
    qkv_a: DeviceLinear  # both read the same rows
    q_b: DeviceLinear
    o: DeviceLinear
    u_k: torch.Tensor  # [H, dc, dn], of the rows' dtype
    u_v: torch.Tensor  # [H, dv, dc]
    gate: DeviceLinear
    shared: TritonExperts  # its only expert


def load_layer(
    checkpoint: Checkpoint,
    layer: int,
    dtype: torch.dtype,
    dense: WeightFormat,
    device: torch.device,
) -> TritonLayer:
    """Read one layer; ``dense`` is how projections and the shared expert are held."""
    config = checkpoint.config

    def kept(name: str) -> Stored:
        return checkpoint.dense(f"layers.{layer}.{name}").kept_as(dense, dtype)

    def wide(name: str, to: torch.dtype) -> torch.Tensor:
        return checkpoint.dense(f"layers.{layer}.{name}").to(to)

    def linear(weight: Stored, held: WeightFormat = dense) -> DeviceLinear:
        of = to_device(weight, held, dtype, device)
        return DeviceLinear(of, dtype, parts_for(of.num_outputs, of.num_inputs))

    both = wide("kv_b", torch.float32).view(config.num_heads, -1, config.kv_lora_rank)
    nope = config.qk_nope_head_dim
    shared = TritonExperts(1, dtype, dense, device)
    shared.add(0, kept("shared_gate"), kept("shared_up"), kept("shared_down"))

    def norm(name: str) -> torch.Tensor:
        return wide(name, torch.float32).to(device)

    return TritonLayer(
        input_norm=norm("input_norm"),
        post_norm=norm("post_norm"),
        q_a_norm=norm("q_a_norm"),
        kv_a_norm=norm("kv_a_norm"),
        qkv_a=linear(stacked([kept("q_a"), kept("kv_a")], dtype)),
        q_b=linear(kept("q_b")),
        o=linear(kept("o")),
        u_k=both[:, :nope].transpose(1, 2).to(dtype).contiguous().to(device),
        u_v=both[:, nope:].to(dtype).contiguous().to(device),
        gate=linear(wide("gate", dtype), WeightFormat.BF16),
        shared=shared,
    )
