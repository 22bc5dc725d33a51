"""What a checkpoint hands out: weights with their scales, under names of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from shards.checkpoint.config import ModelConfig
from shards.kernels.formats import WeightFormat

if TYPE_CHECKING:  # opening needs no torch
    import torch

    from shards.kernels.quantise import Codes, Stored


class Weight(NamedTuple):
    """One weight as stored.

    ``data`` is a view of the mapped file: bf16, float32 or float8_e4m3fn. ``scale`` is None, or the
    0-d float32 factor of an fp8 weight: value = code * scale. A weight that ``galerne quantize``
    has written has ``codes``, and its ``data`` are their numbers.
    """

    data: torch.Tensor
    scale: torch.Tensor | None = None
    codes: Codes | None = None

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """The values in ``dtype``; a view of the file where nothing has to change.

        Codes are multiplied in float32 and rounded once.
        """
        if self.codes is not None:
            from shards.kernels.quantise import wide

            return wide(self.codes).to(dtype)
        if self.scale is None:
            return self.data.to(dtype)
        return (self.data.float() * self.scale).to(dtype)

    def held_as(self, held: WeightFormat, dtype: torch.dtype) -> Stored:
        """The codes as they are, if they are of this format; else the values in ``dtype``."""
        if self.codes is not None and self.codes.held is held:
            return self.codes
        return self.to(dtype)

    def kept_as(self, held: WeightFormat, dtype: torch.dtype) -> Stored:
        """``held_as``, but fp8 stays as the file has it where bf16 is asked for: for GPUs."""
        if self.scale is None or self.codes is not None or held is not WeightFormat.BF16:
            return self.held_as(held, dtype)
        from shards.kernels.quantise import Codes

        num_rows, num_inputs = self.data.shape
        scales = self.scale.reshape(1).expand(num_rows).contiguous()
        return Codes(self.data, scales, num_inputs, WeightFormat.FP8)


class ExpertWeights(NamedTuple):
    """The three matrices of one routed expert.

    ``gate_up`` is one weight ``[2I, H]`` (gate rows first) where the file stores them stacked, or
    the pair gate ``[I, H]``, up ``[I, H]`` where it does not. ``down`` is ``[H, I]``.
    """

    gate_up: tuple[Weight, ...]
    down: Weight


class Checkpoint(Protocol):
    """A validated, memory-mapped checkpoint. Opening reads headers only.

    Names of dense weights: ``embed``, ``norm``, ``head``;
    ``layers.{i}.`` + ``input_norm post_norm q_a q_a_norm q_b kv_a kv_a_norm kv_b o gate shared_gate
    shared_up shared_down``;
    ``vision.`` + ``patch_conv ln_pre``; ``vision.layers.{j}.`` + ``attention_norm ffn_norm q k v o
    gate up down`` (q and k rows in half-split rotary order); ``projector.`` + ``norm merge linear_1
    linear_2``.
    """

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over config and every tensor's name, dtype, shape and sampled bytes."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes of tensor data handed out so far (each range of the file counted once)."""
        ...

    def dense(self, name: str) -> Weight:
        """A weight that is not a routed expert's. Raises KeyError for an unknown name."""
        ...

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """One routed expert."""
        ...

    def release(self) -> None:
        """Give back the pages read so far; views read them again when they are used."""
        ...
