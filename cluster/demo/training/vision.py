"""The vision tower for training, and the lesson it takes before it meets the text model.

Source: model reference, section 3. The tower first learns alone, from labels of every patch (cell,
colour, shape, size of what lies under the patch's centre) read off by a linear probe from the very
features that the text model gets: through the text model alone, 16,000 pictures had taught it
nothing. The probe is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cluster.demo.training.model import linear, rms_norm
from shards.checkpoint.config import ModelConfig, VisionConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Tower(nn.Module):
    """Pictures of one size -> ``[IMG]`` features; q and k rotate in half-split order."""

    def __init__(self, config: ModelConfig) -> None:
        """Random weights from torch's global generator.

        Raises:
            ValueError: The config has no vision tower.
        """
        super().__init__()
        if config.vision is None:
            raise ValueError("a config without a vision tower")
        self.vision: VisionConfig = config.vision
        self.text_eps = config.norm_eps
        width, merged = self.vision.hidden_size, self.vision.spatial_merge_size**2
        pixels = self.vision.num_channels * self.vision.patch_size**2
        self.patch_conv = linear(width, pixels)
        self.ln_pre = nn.Parameter(torch.ones(width))
        self.layers = nn.ModuleList(TowerLayer(self.vision) for _ in range(self.vision.num_layers))
        self.projector_norm = nn.Parameter(torch.ones(width))
        self.projector_merge = linear(width, width * merged)
        self.projector_linear_1 = linear(config.hidden_size, width)
        self.projector_linear_2 = linear(config.hidden_size, config.hidden_size)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[B, side, side, 3]`` uint8 -> ``[B, tokens, H]``, row-major."""
        patch, merge = self.vision.patch_size, self.vision.spatial_merge_size
        mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
        image = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        patches = functional.unfold(image, patch, stride=patch).transpose(1, 2)
        x = rms_norm(patches @ self.patch_conv.T, self.ln_pre, self.vision.norm_eps)
        side = pixels.shape[1] // patch
        cos, sin = (angle.to(x.device) for angle in _angles(self.vision, side))
        for layer in self.layers:
            x = layer(x, cos, sin)
        x = rms_norm(x, self.projector_norm, self.text_eps)
        grid = x.transpose(1, 2).reshape(len(x), -1, side, side)
        merged = functional.unfold(grid, merge, stride=merge).transpose(1, 2)
        hidden = functional.gelu((merged @ self.projector_merge.T) @ self.projector_linear_1.T)
        return hidden @ self.projector_linear_2.T


class TowerLayer(nn.Module):
    """Full attention and a gated MLP."""

    def __init__(self, vision: VisionConfig) -> None:
        """Linears with deviation fan-in^-0.5."""
        super().__init__()
        self.vision = vision
        width, inner = vision.hidden_size, vision.intermediate_size
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.gate, self.up = linear(inner, width), linear(inner, width)
        self.down = linear(width, inner)
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.ffn_norm = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """``[B, patches, width]`` -> the same."""
        eps, heads = self.vision.norm_eps, self.vision.num_heads
        h = rms_norm(x, self.attention_norm, eps)
        q, k, v = (
            (h @ w.T).view(*h.shape[:2], heads, -1).transpose(1, 2)
            for w in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(
            _rotate(q, cos, sin), _rotate(k, cos, sin), v
        )
        x = x + mixed.transpose(1, 2).flatten(2) @ self.o.T
        h = rms_norm(x, self.ffn_norm, eps)
        return x + (functional.silu(h @ self.gate.T) * (h @ self.up.T)) @ self.down.T


def encode_all(tower: Tower, pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """``[I, H]`` features of all pictures in order; pictures of one size go together."""
    features: list[torch.Tensor] = [torch.empty(0)] * len(pictures)
    for side in sorted({len(picture) for picture in pictures}):
        chosen = [i for i, picture in enumerate(pictures) if len(picture) == side]
        pixels = torch.from_numpy(np.stack([pictures[i] for i in chosen]))
        encoded = tower(pixels.to(tower.patch_conv.device))
        for i, rows in zip(chosen, encoded, strict=True):
            features[i] = rows
    return torch.cat(features)


def _angles(vision: VisionConfig, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``[patches, head_dim]``: even frequencies by row, odd ones by column, then the same again."""
    dim = vision.head_dim
    f = vision.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    y, x = np.divmod(np.arange(side * side), side)
    half = np.concatenate([y[:, None] * f[0::2], x[:, None] * f[1::2]], axis=1)
    angles = torch.from_numpy(np.concatenate([half, half], axis=1)).float()
    return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
