"""Pixtral vision tower, patch merger and projector.

Every image is encoded alone, products are row-invariant and attention is computed in blocks of
queries on one torch thread each, so features depend on the pixels only. Weights are float32 or
bf16, softmax and norms float32. Source: model reference, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from router.model.norm import rms_norm
from shards.checkpoint.config import VisionConfig
from shards.checkpoint.weights import Checkpoint
from shards.kernels.row_invariant import linear, on_threads, pad_rows
from shards.kernels.threads import ONE_THREAD, KernelThreads

QUERY_BLOCK = 256


class VisionTower:
    """Pixels of one image -> features of its [IMG] tokens."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, threads: KernelThreads = ONE_THREAD
    ) -> None:
        """Load tower and projector; ``threads`` share out the attention.

        Raises:
            ValueError: The checkpoint has no vision tower.
        """
        if checkpoint.config.vision is None:
            raise ValueError("this checkpoint has no vision tower")
        self._vision: VisionConfig = checkpoint.config.vision
        self._text_eps = checkpoint.config.norm_eps
        self._dtype = dtype
        self._threads = threads
        names = ["vision.patch_conv", "projector.merge", "projector.linear_1", "projector.linear_2"]
        norms = ["vision.ln_pre", "projector.norm"]
        for j in range(self._vision.num_layers):
            prefix = f"vision.layers.{j}."
            names += [prefix + n for n in ("q", "k", "v", "o", "gate", "up", "down")]
            norms += [prefix + n for n in ("attention_norm", "ffn_norm")]
        self._w = {name: checkpoint.dense(name).to(dtype) for name in names}
        conv = self._w["vision.patch_conv"]
        self._w["vision.patch_conv"] = conv.reshape(len(conv), -1)  # [hidden, channels * p * p]
        self._w |= {name: checkpoint.dense(name).to(torch.float32) for name in norms}

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.float32]) -> torch.Tensor:
        """``[3, height, width]`` -> ``[grid_height * grid_width, hidden]``, row-major.

        Height and width are multiples of patch_size * spatial_merge_size.
        """
        config = self._vision
        image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._dtype)[None]
        rows, columns = (side // config.patch_size for side in image.shape[2:])
        patches = functional.unfold(image, config.patch_size, stride=config.patch_size)[0].T
        x = self._linear(patches, "vision.patch_conv")
        x = rms_norm(x, self._w["vision.ln_pre"], config.norm_eps)
        cos, sin = self._angles(rows, columns)
        for j in range(config.num_layers):
            x = self._layer(x, f"vision.layers.{j}.", cos, sin)
        return self._project(x, rows, columns)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(pad_rows(x.contiguous()), self._w[name])[: len(x)]

    def _angles(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[patches, 1, head_dim]`` cosines and sines: even frequencies by row, odd by column."""
        dim = self._vision.head_dim
        f = self._vision.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        y, x = np.divmod(np.arange(rows * columns), columns)
        half = np.concatenate([y[:, None] * f[0::2], x[:, None] * f[1::2]], axis=1)
        angles = np.concatenate([half, half], axis=1)[:, None]
        return torch.from_numpy(np.cos(angles)).float(), torch.from_numpy(np.sin(angles)).float()

    def _layer(
        self, x: torch.Tensor, prefix: str, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        w, eps, heads = self._w, self._vision.norm_eps, self._vision.num_heads
        h = rms_norm(x, w[prefix + "attention_norm"], eps)
        q, k, v = (self._linear(h, prefix + n).view(len(x), heads, -1).float() for n in "qkv")
        mixed = self._attend(_rotate_half_split(q, cos, sin), _rotate_half_split(k, cos, sin), v)
        x = x + self._linear(mixed.reshape(len(x), -1).to(x.dtype), prefix + "o")
        h = rms_norm(x, w[prefix + "ffn_norm"], eps)
        gated = functional.silu(self._linear(h, prefix + "gate"))
        gated = gated * self._linear(h, prefix + "up")
        return x + self._linear(gated, prefix + "down")

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """``[patches, heads, head_dim]`` each -> the same: full attention over the image.

        In blocks of queries: the largest image has 12,100 patches, whose scores would be 9 GB.
        """
        out = torch.empty_like(v)
        scale = self._vision.head_dim**-0.5
        keys, values = k.permute(1, 2, 0).contiguous(), v.transpose(0, 1).contiguous()

        @torch.inference_mode()
        def run(blocks: Sequence[int]) -> None:
            for block in blocks:
                rows = slice(block * QUERY_BLOCK, (block + 1) * QUERY_BLOCK)
                scores = torch.bmm(q[rows].transpose(0, 1), keys) * scale
                out[rows] = torch.bmm(scores.softmax(dim=-1), values).transpose(0, 1)

        num_blocks = -(-len(q) // QUERY_BLOCK)
        on_threads(1, lambda: self._threads.run(run, num_blocks))
        return out

    def _project(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        w, merge = self._w, self._vision.spatial_merge_size
        x = rms_norm(x, w["projector.norm"], self._text_eps)
        grid = x.T.reshape(1, -1, rows, columns)
        merged = functional.unfold(grid, merge, stride=merge)[0].T  # feature: channel, dy, dx
        x = self._linear(merged, "projector.merge")
        x = functional.gelu(self._linear(x, "projector.linear_1"))
        return self._linear(x, "projector.linear_2")


def _rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
