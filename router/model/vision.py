"""Pixtral vision tower, patch merger and projector.

Every image is encoded alone, so its features depend on its pixels only. Runs in float32 or bf16
weights with float32 softmax and norms. Source: model reference, section 3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from router.model.norm import rms_norm
from shards.checkpoint.config import VisionConfig
from shards.checkpoint.weights import Checkpoint


class VisionTower:
    """Pixels of one image -> features of its [IMG] tokens."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        """Load tower and projector.

        Raises:
            ValueError: The checkpoint has no vision tower.
        """
        if checkpoint.config.vision is None:
            raise ValueError("this checkpoint has no vision tower")
        self._vision: VisionConfig = checkpoint.config.vision
        self._text_eps = checkpoint.config.norm_eps
        self._dtype = dtype
        names = ["vision.patch_conv", "projector.merge", "projector.linear_1", "projector.linear_2"]
        norms = ["vision.ln_pre", "projector.norm"]
        for j in range(self._vision.num_layers):
            prefix = f"vision.layers.{j}."
            names += [prefix + n for n in ("q", "k", "v", "o", "gate", "up", "down")]
            norms += [prefix + n for n in ("attention_norm", "ffn_norm")]
        self._w = {name: checkpoint.dense(name).to(dtype) for name in names}
        self._w |= {name: checkpoint.dense(name).to(torch.float32) for name in norms}

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.float32]) -> torch.Tensor:
        """``[3, height, width]`` -> ``[grid_height * grid_width, hidden]``, row-major.

        Height and width are multiples of patch_size * spatial_merge_size.
        """
        config = self._vision
        image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._dtype)[None]
        patches = functional.conv2d(image, self._w["vision.patch_conv"], stride=config.patch_size)
        rows, columns = patches.shape[2:]
        x = rms_norm(patches.flatten(2)[0].T, self._w["vision.ln_pre"], config.norm_eps)
        cos, sin = self._angles(rows, columns)
        for j in range(config.num_layers):
            x = self._layer(x, f"vision.layers.{j}.", cos, sin)
        return self._project(x, rows, columns)

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
        q, k, v = (
            functional.linear(h, w[prefix + n]).view(len(x), heads, -1).float() for n in "qkv"
        )
        q, k = _rotate_half_split(q, cos, sin), _rotate_half_split(k, cos, sin)
        scores = torch.einsum("qhd,khd->hqk", q, k) * self._vision.head_dim**-0.5
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v)
        x = x + functional.linear(mixed.reshape(len(x), -1).to(x.dtype), w[prefix + "o"])
        h = rms_norm(x, w[prefix + "ffn_norm"], eps)
        gated = functional.silu(functional.linear(h, w[prefix + "gate"]))
        gated = gated * functional.linear(h, w[prefix + "up"])
        return x + functional.linear(gated, w[prefix + "down"])

    def _project(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        w, merge = self._w, self._vision.spatial_merge_size
        x = rms_norm(x, w["projector.norm"], self._text_eps)
        grid = x.T.reshape(1, -1, rows, columns)
        merged = functional.unfold(grid, merge, stride=merge)[0].T  # feature: channel, dy, dx
        x = functional.linear(merged, w["projector.merge"])
        x = functional.gelu(functional.linear(x, w["projector.linear_1"]))
        return functional.linear(x, w["projector.linear_2"])


def _rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
