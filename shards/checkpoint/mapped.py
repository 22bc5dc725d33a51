"""A checkpoint whose weights are views of mapped files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

from shards.checkpoint.check import FP8, CheckedTensors, check_scale_values
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import Layout, Source
from shards.checkpoint.tensor_files import TensorFiles
from shards.checkpoint.weights import ExpertWeights, Weight
from shards.kernels.formats import WeightFormat

if TYPE_CHECKING:  # opening needs no torch
    import torch

    from shards.kernels.quantise import Codes

SAMPLE_BYTES = 64


class MappedCheckpoint:
    """Satisfies ``Checkpoint``. Made by ``open_checkpoint``, which checks everything beforehand."""

    def __init__(
        self, config: ModelConfig, layout: Layout, tensors: TensorFiles, checked: CheckedTensors
    ) -> None:
        self._config = config
        self.layout = layout
        self.tensors = tensors
        self.checked = checked

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return self._config

    @property
    def bytes_read(self) -> int:
        """Bytes of tensor data handed out so far (each range of the files counted once)."""
        return sum(file.bytes_read for file in self.tensors.files)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over config and every used tensor's name, dtype, shape and sampled bytes.

        Samples are the first and last 64 bytes of every dense weight and of three experts of each
        layer, the same of the scales of codes, and all scales of fp8 weights. Two checkpoints that
        differ elsewhere only are not told apart.
        """
        digest = hashlib.sha256(json.dumps(asdict(self._config), sort_keys=True).encode())
        for name in sorted(self.checked.all_names):
            entry = self.tensors.entry(name)
            digest.update(f"\n{name} {entry.dtype} {list(entry.shape)}".encode())
        samples = sorted(set(self._samples()))
        for (name, start, end), piece in zip(samples, self.tensors.read(samples), strict=True):
            digest.update(f"\n{name} {start} {end} ".encode() + piece)
        return digest.hexdigest()

    def release(self) -> None:
        """Give back the pages read so far; views read them again when they are used."""
        for file in self.tensors.files:
            file.release()

    def dense(self, name: str) -> Weight:
        """A weight that is not a routed expert's. Raises KeyError for an unknown name."""
        return self._weight(self.layout.dense[name])

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """One routed expert. Raises IndexError outside of the model."""
        if not 0 <= layer < self._config.num_layers:
            raise IndexError(f"layer {layer} of {self._config.num_layers}")
        if not 0 <= expert < self._config.num_experts:
            raise IndexError(f"expert {expert} of {self._config.num_experts}")
        sources = self.layout.expert(layer, expert)
        gate_up = tuple(self._weight(source) for source in sources.gate_up)
        return ExpertWeights(gate_up, self._weight(sources.down))

    def _weight(self, source: Source) -> Weight:
        data = self.tensors.file_by_tensor[source.name].tensor(source.name, source.stack_index)
        if source.has_rotary_pairs and self._config.vision is not None:
            data = pairs_to_half_split(data, self._config.vision.num_heads)
        if source.scale_name is not None and source.held is not WeightFormat.BF16:
            return Weight(data, codes=self._codes(source, data, source.scale_name))
        if source.scale_name is None or self.tensors.entry(source.name).dtype != FP8:
            return Weight(data)
        file = self.tensors.file_by_tensor[source.scale_name]
        # One of [E, 1, 1], or the only one of [] or [1].
        scale = file.tensor(source.scale_name, source.stack_index)
        return Weight(data, scale.reshape(()).float())

    def _codes(self, source: Source, data: torch.Tensor, scale_name: str) -> Codes:
        from shards.kernels.quantise import Codes, unpacked_nibbles

        file = self.tensors.file_by_tensor[scale_name]
        scales = file.tensor(scale_name)
        check_scale_values(scales.float().numpy(), str(file.path), scale_name)
        numbers = unpacked_nibbles(data) if source.held is WeightFormat.INT4 else data
        return Codes(numbers, scales, source.shape[1], source.held)

    def _samples(self) -> Iterator[tuple[str, int, int]]:
        for name in self.checked.scales:
            yield name, 0, self.tensors.entry(name).num_bytes
        for source in self.layout.dense.values():
            yield from self._ends(source)
        last = self._config.num_experts - 1
        for layer in range(self._config.num_layers):
            for expert in {0, last // 2, last} if last >= 0 else ():
                sources = self.layout.expert(layer, expert)
                for source in (*sources.gate_up, sources.down):
                    yield from self._ends(source)

    def _ends(self, source: Source) -> Iterator[tuple[str, int, int]]:
        start, end = 0, self.tensors.entry(source.name).num_bytes
        if source.stack_index is not None:
            end //= source.shape[0]
            start, end = source.stack_index * end, (source.stack_index + 1) * end
        yield source.name, start, min(start + SAMPLE_BYTES, end)
        yield source.name, max(end - SAMPLE_BYTES, start), end
        if source.scale_name in self.checked.code_scales:
            yield from self._ends(Source(source.scale_name, source.scale_shape))


def pairs_to_half_split(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows for rotation of neighbouring pairs, reordered for rotation of halves.

    Args:
        weight: ``[heads * d, in]``; the rows of a head lie as (d/2, 2).
        num_heads: Heads.

    Returns:
        ``[heads * d, in]``, a copy; the rows of a head lie as (2, d/2).

    Source: model reference, section 3.
    """
    rows = weight.view(num_heads, -1, 2, weight.shape[-1])
    return rows.transpose(1, 2).reshape(weight.shape)
