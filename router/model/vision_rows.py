"""What the vision tower does to rows of patches: weights, norms, projections.

Every row depends on its own image only: products are row-invariant, and a block of queries is
counted from the start of its image. So it does not matter which rows are worked on together, nor
what happens in between. Weights are float32 or bf16, softmax and norms float32. Source: model
reference, section 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from router.model.vision_kernels import ImageKeys, VisionKernels
from shards.checkpoint.config import VisionConfig
from shards.checkpoint.weights import Checkpoint


class VisionRows:
    """Weights of tower, patch merger and projector, and what they do to rows."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, kernels: VisionKernels) -> None:
        """Load to where ``kernels`` compute.

        Raises:
            ValueError: The checkpoint has no vision tower.
        """
        if checkpoint.config.vision is None:
            raise ValueError("this checkpoint has no vision tower")
        self.config: VisionConfig = checkpoint.config.vision
        self.dtype = dtype
        self._text_eps = checkpoint.config.norm_eps
        names = ["vision.patch_conv", "projector.merge", "projector.linear_1", "projector.linear_2"]
        norms = ["vision.ln_pre", "projector.norm"]
        for j in range(self.config.num_layers):
            prefix = f"vision.layers.{j}."
            names += [prefix + n for n in ("q", "k", "v", "o", "gate", "up", "down")]
            norms += [prefix + n for n in ("attention_norm", "ffn_norm")]
        self.kernels = kernels
        matrices = {name: checkpoint.dense(name).to(dtype).flatten(1) for name in names}
        self._shapes = {name: tuple(matrix.shape) for name, matrix in matrices.items()}
        self._apply = {name: kernels.product(matrix) for name, matrix in matrices.items()}
        self._norms = {
            name: checkpoint.dense(name).to(torch.float32).to(kernels.device) for name in norms
        }
        # Multiplications for one row, by what is done to it: what a slice of rows costs.
        self.embed_products = self._products("vision.patch_conv")
        self.keys_products = self._products(*(f"vision.layers.0.{n}" for n in "kv"))
        self.layer_products = self._products(
            *(f"vision.layers.0.{n}" for n in ("q", "o", "gate", "up", "down"))
        )
        self.project_products = self._products(*(n for n in names if n.startswith("projector.")))

    @property
    def patch_products(self) -> int:
        """Multiplications for one patch on its way through the tower, but for attention."""
        per_layer = self.keys_products + self.layer_products
        return self.embed_products + self.config.num_layers * per_layer

    def attention_products(self, num_patches: int) -> int:
        """Multiplications for one query of an image of so many patches."""
        return 2 * num_patches * self.config.num_heads * self.config.head_dim

    @property
    def tower_size(self) -> int:
        """Length of a row in the tower."""
        return self._shapes["vision.patch_conv"][0]

    @property
    def feature_size(self) -> int:
        """Length of a feature: the text model's hidden size."""
        return self._shapes["projector.linear_2"][0]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return height // self.config.patch_size, width // self.config.patch_size

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[3, height, width]`` float32 -> ``[patches, channels * p * p]``, row-major."""
        size = self.config.patch_size
        return functional.unfold(pixels.to(self.dtype)[None], size, stride=size)[0].T

    def angles(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[patches, 1, head_dim]`` cosines and sines: even frequencies by row, odd by column."""
        dim = self.config.head_dim
        f = self.config.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        y, x = np.divmod(np.arange(rows * columns), columns)
        half = np.concatenate([y[:, None] * f[0::2], x[:, None] * f[1::2]], axis=1)
        angles = np.concatenate([half, half], axis=1)[:, None]
        return torch.from_numpy(np.cos(angles)).float(), torch.from_numpy(np.sin(angles)).float()

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """``[n, channels * p * p]`` -> ``[n, tower_size]``."""
        x = self._apply["vision.patch_conv"](patches)
        return self._norm(x, "vision.ln_pre", self.config.norm_eps)

    def queries(
        self, layer: int, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """``[n, heads, head_dim]`` float32, rotated."""
        return _rotate_half_split(self._heads(self._normed(layer, x), layer, "q"), cos, sin)

    def keys_values(
        self, layer: int, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both ``[n, heads, head_dim]`` float32, keys rotated."""
        h = self._normed(layer, x)
        return _rotate_half_split(self._heads(h, layer, "k"), cos, sin), self._heads(h, layer, "v")

    def image_keys(self, num_patches: int) -> ImageKeys:
        """Room for the keys and values of an image."""
        sizes = self.config.num_heads, self.config.head_dim
        return self.kernels.image_keys(num_patches, *sizes)

    def finish_layer(self, layer: int, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Rows ``[n, tower_size]`` after a layer, from those before and what attention gave."""
        prefix = f"vision.layers.{layer}."
        x = x + self._apply[prefix + "o"](mixed.reshape(len(x), -1).to(x.dtype))
        h = self._norm(x, prefix + "ffn_norm", self.config.norm_eps)
        gated = functional.silu(self._apply[prefix + "gate"](h))
        gated = gated * self._apply[prefix + "up"](h)
        return x + self._apply[prefix + "down"](gated)

    def merge(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """All rows of an image -> ``[tokens, tower_size * merge^2]``: channel, dy, dx."""
        merge = self.config.spatial_merge_size
        x = self._norm(x, "projector.norm", self._text_eps)
        grid = x.T.reshape(1, -1, rows, columns)
        return functional.unfold(grid, merge, stride=merge)[0].T

    def project(self, merged: torch.Tensor) -> torch.Tensor:
        """``[n, tower_size * merge^2]`` -> ``[n, feature_size]``."""
        x = self._apply["projector.merge"](merged)
        x = functional.gelu(self._apply["projector.linear_1"](x))
        return self._apply["projector.linear_2"](x)

    def _products(self, *names: str) -> int:
        return sum(n * k for n, k in (self._shapes[name] for name in names))

    def _norm(self, x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        return self.kernels.rms_norm(x, self._norms[name], eps)

    def _normed(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        return self._norm(x, f"vision.layers.{layer}.attention_norm", self.config.norm_eps)

    def _heads(self, h: torch.Tensor, layer: int, name: str) -> torch.Tensor:
        rows = self._apply[f"vision.layers.{layer}.{name}"](h)
        return rows.view(len(h), self.config.num_heads, -1).float()


def _rotate_half_split(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
