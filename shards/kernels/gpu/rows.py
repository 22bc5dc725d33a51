"""Norms, residuals and latents: one program a row, float32, rounded where torch layers round."""

from __future__ import annotations

from typing import Any, Final

import torch

from shards.kernels.gpu.code import rows as code
from shards.kernels.gpu.launch import NO_FUSION, block, upcasts
from shards.kernels.gpu.linear import in_parts

_NUM_WARPS: Final = 8  # fixed: it is part of the order of a row's sums


def _a_row_each(x: torch.Tensor) -> dict[str, Any]:
    """How programs are launched that take a row of ``x`` each."""
    size = x.shape[1]
    shape = {"SIZE": size, "BLOCK": block(size), "UPCAST": upcasts(x.dtype)}
    return {**shape, "num_warps": _NUM_WARPS, **NO_FUSION}


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)`` of ``[T, H]`` contiguous rows; dtype of ``x``."""
    out = torch.empty_like(x)
    if len(x):
        code.rms_norm[(len(x),)](
            *(x, weight, out, eps),
            **_a_row_each(x),
        )
    return out


def add_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x + delta`` of ``[T, H]``, and its norm by ``weight``; ``delta`` may be in parts."""
    total, normed, delta = torch.empty_like(x), torch.empty_like(x), in_parts(delta)
    if len(x):
        code.add_norm[(len(x),)](
            *(x, delta, delta.stride(0), weight, total, normed, eps),
            PARTS=len(delta),
            **_a_row_each(x),
        )
    return total, normed


def join_norm(
    x: torch.Tensor,
    shared: torch.Tensor,
    rows: torch.Tensor,
    shares: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual after the experts, and its norm by the next weight.

    Args:
        x: ``[T, H]`` the residual before.
        shared: ``[T, H]`` of the shared expert.
        rows: ``[T, K, H]`` of the routed ones by ascending id, unweighted.
        shares: ``[T, K]`` float32.
        weight: ``[H]`` float32 of the next norm.
        eps: Of the norm.

    Source: ``combine`` of router/exchange; design section 5.
    """
    total, normed = torch.empty_like(x), torch.empty_like(x)
    if len(x):
        code.join_norm[(len(x),)](
            *(x, shared, rows, shares, weight, total, normed, eps),
            TOP_K=rows.shape[1],
            **_a_row_each(x),
        )
    return total, normed


def store_latents(
    both: torch.Tensor,
    q_weight: torch.Tensor,
    c_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    cache: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """Norms and rotation of the first projections; latents go to the cache.

    Args:
        both: ``[T, q_lora + kv_lora + rope]``, or parts of it, see ``DeviceLinear.parts``.
        q_weight: ``[q_lora]`` float32.
        c_weight: ``[kv_lora]`` float32.
        cos: ``[T, rope / 2]`` float32.
        sin: The same.
        slots: ``[T]`` int32, block * block size + place; below 0: not stored.
        cache: ``[blocks, block size, kv_lora + rope]`` of the layer.
        eps: Of the norms.

    Returns:
        ``[T, q_lora]`` the normed query, of the cache's dtype.

    What is not finite is stored as 0, as ``PagedLatentCache.write`` says.
    """
    q_size, c_size, pairs = len(q_weight), len(c_weight), cos.shape[1]
    both = in_parts(both)
    q = cache.new_empty((both.shape[1], q_size))
    code.latents[(both.shape[1],)](
        *(both, both.stride(0), q_weight, c_weight, cos, sin, slots, q, cache, eps),
        PARTS=len(both),
        Q_SIZE=q_size,
        Q_BLOCK=block(q_size),
        C_SIZE=c_size,
        C_BLOCK=block(c_size),
        PAIRS=pairs,
        P_BLOCK=block(pairs),
        UPCAST=upcasts(cache.dtype),
        num_warps=_NUM_WARPS,
        **NO_FUSION,
    )
    return q
