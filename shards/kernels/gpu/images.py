"""Attention of a picture's patches: all of them see all of them."""

from __future__ import annotations

from typing import Final

import torch

from shards.kernels.gpu.code import images as code
from shards.kernels.gpu.launch import NO_FUSION, block, upcasts

_ROWS: Final = 64  # queries of a program
_KEYS: Final = 64  # at once, counted from the image's first
_NUM_WARPS: Final = 4


def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Queries of one image over all of its patches.

    Args:
        q: ``[n, heads, head_dim]`` contiguous.
        keys: ``[patches, heads, head_dim]`` contiguous, of the same dtype.
        values: The same.

    Returns:
        ``[n, heads, head_dim]``. A row's bits depend on its query and the image alone.

    Source: model reference, section 3; the sums are those of Dao et al., arXiv:2205.14135,
    section 3.1.
    """
    count, heads, dim = q.shape
    out = torch.empty_like(q)
    code.attend[(-(-count // _ROWS), heads)](
        *(q, keys, values, out, count, len(keys), dim**-0.5),
        HEADS=heads,
        DIM=dim,
        D_BLOCK=block(dim),
        M=_ROWS,
        KEYS=_KEYS,
        UPCAST=upcasts(q.dtype),
        num_warps=_NUM_WARPS,
        num_stages=2,
        **NO_FUSION,
    )
    return out


def reference(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``[n, heads, head_dim]`` float32 by torch."""
    wide = q.float(), keys.float(), values.float()
    scores = torch.einsum("qhd,khd->hqk", *wide[:2]) * q.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), wide[2])
