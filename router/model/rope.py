"""Rotary positions with YaRN, and the llama-4 query temperature.

Source: model reference, section 2 (RoPE frequencies; step 5).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from shards.checkpoint.config import ModelConfig


def yarn_frequencies(config: ModelConfig) -> npt.NDArray[np.float64]:
    """``[rope_dim / 2]`` radians per position of each rotary pair.

    Pairs that turn more than ``beta_fast`` times within the original length stay, those that turn
    less than ``beta_slow`` times are divided by the factor, a linear ramp lies between.
    """
    dim = config.qk_rope_head_dim
    plain = config.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)

    def pair_of(rotations: float) -> float:
        length = config.yarn_original_max_positions
        return (
            dim * math.log(length / (2 * math.pi * rotations)) / (2 * math.log(config.rope_theta))
        )

    low = max(math.floor(pair_of(config.yarn_beta_fast)), 0)
    high = min(math.ceil(pair_of(config.yarn_beta_slow)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    scaled: npt.NDArray[np.float64] = plain * (1 - ramp) + plain / config.yarn_factor * ramp
    return scaled


def softmax_scale(config: ModelConfig) -> float:
    """Factor on attention logits: ``qk_head_dim ** -0.5``, nothing more unless the file says so.

    Section 0 of the model reference: the YaRN magnitude must not be multiplied in for Small 4.
    """
    scale: float = config.qk_head_dim**-0.5
    if config.yarn_apply_scale and config.yarn_factor > 1:
        scale *= (0.1 * math.log(config.yarn_factor) + 1.0) ** 2
    return scale


def query_temperature(config: ModelConfig, positions: npt.NDArray[np.int64]) -> torch.Tensor:
    """``[T]`` float32 factor on the whole query of each position (llama-4 scaling)."""
    periods = positions // config.llama4_original_max_positions
    return torch.from_numpy((1.0 + config.llama4_beta * np.log1p(periods)).astype(np.float32))


class Rotation:
    """Cosines and sines of one step's positions, applied to neighbouring pairs."""

    def __init__(
        self, frequencies: npt.NDArray[np.float64], positions: npt.NDArray[np.int64]
    ) -> None:
        """Angles in float64, so that a position of 262,143 loses nothing."""
        angles = positions[:, None] * frequencies[None, :]
        self.cos = torch.from_numpy(np.cos(angles).astype(np.float32))  # [T, rope_dim / 2]
        self.sin = torch.from_numpy(np.sin(angles).astype(np.float32))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate ``[T, rope_dim]`` or ``[T, heads, rope_dim]`` float32; same shape back."""
        cos, sin = self.cos, self.sin
        if x.dim() == 3:
            cos, sin = cos[:, None], sin[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
