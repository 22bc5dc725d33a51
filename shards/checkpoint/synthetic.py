"""A seeded random checkpoint that is in no file: weights are made when they are asked for.

For the real size on a GPU: 119 GB of fp8 are made where they will be used, layer by layer. The
weights are other ones than those of ``write_random_checkpoint``, of the same spread.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Final

import torch

from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import Shape, can_be_fp8, dense_shapes
from shards.checkpoint.weights import ExpertWeights, Weight

_CODE_DEVIATION: Final = 64.0  # of fp8 codes: seven deviations below the largest code, 448
_GATE_GAIN: Final = 2.0  # makes routing decisive


class SyntheticCheckpoint:
    """Satisfies ``Checkpoint``: fp8 weights with a scale each, where the fp8 files have them.

    The same seed, config and kind of device give the same weights.
    """

    def __init__(self, config: ModelConfig, seed: int, device: torch.device) -> None:
        """Text only; weights are made on ``device``."""
        self.config = config
        self._seed = seed
        self._device = device
        self._shapes = dense_shapes(config)
        self._bytes = 0

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over config, seed and device type."""
        named = [asdict(self.config), self._seed, self._device.type]
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    @property
    def bytes_read(self) -> int:
        """Bytes that were made."""
        return self._bytes

    def dense(self, name: str) -> Weight:
        """See ``Checkpoint``."""
        if name == "head" and self.config.tie_word_embeddings:
            name = "embed"
        shape = self._shapes[name]
        if len(shape) == 1:
            return self._counted(Weight((1 + 0.1 * self._noise(name, shape)).bfloat16()))
        if can_be_fp8(name):
            return self._fp8(name, shape)
        gain = _GATE_GAIN if name.endswith(".gate") else 1.0
        deviation = 1.0 if name == "embed" else gain * shape[-1] ** -0.5
        return self._counted(Weight((self._noise(name, shape) * deviation).bfloat16()))

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """See ``Checkpoint``."""
        stem, hidden, width = f"{layer}/{expert}/", self.config.hidden_size, self.config.expert_size
        gate, up = (self._fp8(stem + name, (width, hidden)) for name in ("gate", "up"))
        return ExpertWeights((gate, up), self._fp8(stem + "down", (hidden, width)))

    def release(self) -> None:
        """See ``Checkpoint``: nothing is kept here."""

    def _fp8(self, name: str, shape: Shape) -> Weight:
        codes = (self._noise(name, shape) * _CODE_DEVIATION).clamp_(-448, 448)
        scale = torch.tensor(shape[-1] ** -0.5 / _CODE_DEVIATION, device=self._device)
        return self._counted(Weight(codes.to(torch.float8_e4m3fn), scale))

    def _noise(self, name: str, shape: Shape) -> torch.Tensor:
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = torch.Generator(self._device)
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(shape, generator=generator, device=self._device)

    def _counted(self, weight: Weight) -> Weight:
        self._bytes += weight.data.nbytes
        return weight
