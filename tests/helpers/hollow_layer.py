"""One layer of Mistral Small 4 on the host, as large as the real one; nobody reads its numbers."""

from types import SimpleNamespace

import torch

from router.model.triton_step import DecodeTokens, StepTokens
from router.model.triton_weights import TritonLayer
from shards.checkpoint.presets import preset
from shards.kernels import segments as cut
from shards.kernels.formats import WeightFormat
from shards.kernels.gpu import attention, experts, linear
from shards.kernels.gpu.weights import DeviceWeight
from shards.kernels.quantise import Codes

BF16, REAL = torch.bfloat16, preset("full-layer")
H, W, E = REAL.hidden_size, REAL.expert_size, REAL.num_experts
KEY_BYTES = 2 * (REAL.kv_lora_rank + REAL.qk_rope_head_dim)


class HollowCache:
    """Of latents."""

    def layer(self, _):
        return torch.empty((64, 16, KEY_BYTES // 2), dtype=BF16)


def fp8(n, k):
    return Codes(torch.empty((n, k), dtype=torch.uint8), torch.empty(n), k, WeightFormat.FP8)


def product(n, k, held=WeightFormat.FP8, *, has_parts=True):
    data = torch.empty((n, k), dtype=BF16 if held is WeightFormat.BF16 else torch.uint8)
    scales = None if held is WeightFormat.BF16 else torch.empty(n)
    parts = linear.parts_for(n, k) if has_parts else 1
    return linear.DeviceLinear(DeviceWeight(data, scales, held, k), BF16, parts)


def expert_layer(num_experts):
    """With the weights of one: all have the same shape."""
    of_layer = experts.TritonExperts(num_experts, BF16, WeightFormat.BF16, torch.device("cpu"))
    of_layer.add(0, fp8(W, H), fp8(W, H), fp8(H, W))
    return of_layer


def one_layer(shape):
    norm, per_head = torch.empty(H), (shape.heads, shape.latent)
    q, c = REAL.q_lora_rank, shape.latent
    out = shape.heads * shape.value
    of_q = shape.heads * (shape.nope + shape.rope)
    return TritonLayer(
        *(norm, norm, torch.empty(q), torch.empty(c)),
        *(product(q + c + shape.rope, H), product(of_q, q), product(H, out)),
        torch.empty((*per_head, shape.nope), dtype=BF16),
        torch.empty((shape.heads, shape.value, shape.latent), dtype=BF16),
        *(product(E, H, WeightFormat.BF16), expert_layer(1)),
    )


def step_of(tokens, context):
    """So many sequences that decode at ``context``."""
    ints = lambda *size: torch.zeros(size, dtype=torch.int32)  # noqa: E731
    half = REAL.qk_rope_head_dim // 2
    turn = torch.empty((tokens, half)), torch.empty((tokens, half)), torch.empty(tokens)
    decodes = DecodeTokens(
        *(ints(tokens), ints(tokens), ints(tokens, context // 16)), cut.segments_of(context)
    )
    return StepTokens(tokens, *turn, ints(tokens), None, decodes=decodes)


def hollow_layers():
    """As much of ``TritonLayers`` as a step asks for."""
    for module in (linear, experts, attention):  # nothing computes, so nothing is compared
        module.verified = lambda _, tiles, __: tuple(tiles)
    shape = attention.AttentionShape(
        *(REAL.num_heads, REAL.qk_nope_head_dim, REAL.qk_rope_head_dim),
        *(REAL.kv_lora_rank, REAL.v_head_dim),
    )
    layers = [one_layer(shape)]
    norm = torch.empty(H)
    return SimpleNamespace(config=REAL, layers=layers, shape=shape, next_norm=lambda _: norm)
