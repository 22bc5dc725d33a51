"""Writes a checkpoint in the native layout, in bf16, fp8, int8 or int4.

Source: model reference, sections 3 (order of the tower's q and k), 4b and 4c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from shards.checkpoint.check import CODES, FP8
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.config_check import check_sizes
from shards.checkpoint.config_native_write import native_params
from shards.checkpoint.layout_native import native_layout
from shards.checkpoint.names import Source, can_be_fp8, dense_shapes
from shards.checkpoint.safetensors_write import (
    TensorSpec,
    refuse_existing,
    write_json,
    write_safetensors,
)
from shards.checkpoint.weights import Weight
from shards.kernels.formats import WeightFormat
from shards.kernels.quantise import codes_of, packed_nibbles

# Gate ``[I, H]``, up ``[I, H]`` and down ``[H, I]`` of the expert at (layer, index).
Experts = Callable[[int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

BF16 = "BF16"
E4M3_MAX = 448.0
# Range of +-28 where nothing was measured. Inputs of linears follow a norm or a gated product, so
# they lie within; and e4m3 is a floating format, to which a range too wide costs next to nothing.
DEFAULT_ACTIVATION_SCALE = 1 / 16


class Quantised(NamedTuple):
    """A weight as codes times one factor."""

    codes: torch.Tensor  # e4m3, shape of the weight
    scale: torch.Tensor  # bf16, 0-d for one matrix


class _Item(NamedTuple):
    """One weight to be written, with its scales if it has any."""

    name: str  # ours
    source: Source
    is_fp8: bool

    def specs(self) -> Iterator[tuple[str, TensorSpec]]:
        """Name and header entry of every tensor, in the order of ``_stored``."""
        if self.source.held is not WeightFormat.BF16:
            assert self.source.scale_name is not None
            yield self.source.scale_name, TensorSpec("F32", self.source.scale_shape)
            (dtype,) = CODES[self.source.held]
            yield self.source.name, TensorSpec(dtype, self.source.stored_shape)
            return
        yield self.source.name, TensorSpec(FP8 if self.is_fp8 else BF16, self.source.shape)
        if self.is_fp8:
            stem = self.source.name.removesuffix("weight")
            yield f"{stem}qscale_weight", TensorSpec(BF16, ())
            yield f"{stem}qscale_act", TensorSpec(BF16, ())


def write_native_checkpoint(
    directory: Path,
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    experts: Experts,
    *,
    activation_scales: Mapping[str, float] | None = None,
) -> None:
    """Write ``consolidated.safetensors``, then ``params.json``; neither is ever there in part.

    With ``config.is_fp8`` the text layers' linears and all routed experts become fp8; with
    ``experts_held`` and ``dense_held`` routed experts and ``QUANTISED_LINEARS`` become int8 or
    int4; everything else is bf16. Experts are asked for once each, layer by layer, and not kept:
    memory holds the caller's weights and one more matrix.

    Args:
        directory: Made if missing; must hold no checkpoint.
        config: Sizes, and whether to write fp8.
        weights: Float tensors by the names and of the shapes of ``dense_shapes(config)``; q and k
            of the vision tower in half-split rotary order, as ``Checkpoint.dense`` hands them out.
        experts: Gate, up and down of a routed expert, float.
        activation_scales: For fp8, the largest input of a linear over 448, by the linear's name:
            ``layers.0.q_a``, ``layers.0.experts.5.gate``. Names may be left out:
            ``DEFAULT_ACTIVATION_SCALE`` is stored then. This project does not use them; other
            engines do.

    Raises:
        FileExistsError: A checkpoint is there already.
        ValueError: A weight or scale is missing, unknown, misshapen or not finite: names it. Or the
            layout cannot say what the config says.
        CheckpointError: The sizes do not fit together.
    """
    params = native_params(check_sizes("params.json", config))
    refuse_existing(directory)
    items = _items(config)
    _check_weights(config, weights)
    scales = _checked_scales(items, activation_scales or {})
    directory.mkdir(parents=True, exist_ok=True)
    specs = {name: spec for item in items for name, spec in item.specs()}
    values = _values(config, items, weights, experts)
    data = (
        tensor
        for item, value in zip(items, values, strict=True)
        for tensor in _stored(item, value, config, scales)
    )
    write_safetensors(directory / "consolidated.safetensors", specs, data)
    write_json(directory / "params.json", params)


def quantise(weight: torch.Tensor) -> Quantised:
    """The e4m3 codes nearest to ``weight / scale``, with scale = largest magnitude / 448 in bf16.

    The scale is rounded before it divides, so that the codes make up for its rounding. With
    w' = code * scale: abs(w - w') <= max(abs(w) / 16, scale / 1024), half a step of e4m3.

    Args:
        weight: ``[..., out, in]`` float32, finite; a scale for each matrix of a stack.
    """
    scale = (weight.abs().amax((-2, -1)) / E4M3_MAX).to(torch.bfloat16)
    # All zero, or next to it: readers refuse scale 0.
    scale = torch.where(scale < torch.finfo(torch.bfloat16).tiny, torch.ones_like(scale), scale)
    # A scale that was rounded down leaves the largest weights just above the largest code.
    scaled = weight / scale.to(torch.float32)[..., None, None]
    return Quantised(scaled.clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale)


def dequantise(quantised: Quantised) -> torch.Tensor:
    """Codes times their factor as a reader of the file multiplies them, float32."""
    return Weight(quantised.codes, quantised.scale[..., None, None]).to(torch.float32)


def half_split_to_pairs(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows for rotation of halves, reordered for that of pairs; undoes ``pairs_to_half_split``.

    Args:
        weight: ``[heads * d, in]``; the rows of a head lie as (2, d/2).
        num_heads: Heads.

    Returns:
        ``[heads * d, in]``, a copy; the rows of a head lie as (d/2, 2).
    """
    rows = weight.reshape(num_heads, 2, -1, weight.shape[-1])
    return rows.transpose(1, 2).reshape(weight.shape)


def _items(config: ModelConfig) -> list[_Item]:
    layout = native_layout(config)
    dense = [
        _Item(name, layout.dense[name], config.is_fp8 and can_be_fp8(name))
        for name in dense_shapes(config)
    ]
    # fp8 and codes last: matrices of odd size would leave every tensor behind them misaligned.
    dense.sort(key=lambda item: item.is_fp8 or item.source.held is not WeightFormat.BF16)
    routed: list[_Item] = []
    for layer in range(config.num_layers):
        for index in range(config.num_experts):
            expert = layout.expert(layer, index)
            stem = f"layers.{layer}.experts.{index}."
            sources = zip(("gate", "up", "down"), (*expert.gate_up, expert.down), strict=True)
            routed += [_Item(stem + short, source, config.is_fp8) for short, source in sources]
    return dense + routed


def _values(
    config: ModelConfig,
    items: list[_Item],
    weights: Mapping[str, torch.Tensor],
    experts: Experts,
) -> Iterator[torch.Tensor]:
    """The weights of the items, one by one: first the dense ones, then expert by expert."""
    yield from (weights[item.name] for item in items if item.name in weights)
    for layer in range(config.num_layers):
        for index in range(config.num_experts):
            gate, up, down = experts(layer, index)
            yield from (gate, up, down)


def _stored(
    item: _Item, value: torch.Tensor, config: ModelConfig, scales: Mapping[str, float]
) -> Iterator[torch.Tensor]:
    """The tensors of one weight as they lie in the file."""
    _check_shape(item.name, value, item.source.shape)
    value = value.detach().to("cpu", torch.float32)
    if item.source.has_rotary_pairs and config.vision is not None:
        value = half_split_to_pairs(value, config.vision.num_heads)
    rounded = value.to(torch.bfloat16)
    if not rounded.isfinite().all():
        raise ValueError(f"{item.name}: finite values of bf16 expected")
    if item.source.held is not WeightFormat.BF16:
        codes = codes_of(rounded, item.source.held)  # as they are made at load
        yield codes.scales
        is_halved = item.source.held is WeightFormat.INT4
        yield packed_nibbles(codes.numbers) if is_halved else codes.numbers
        return
    if not item.is_fp8:
        yield rounded
        return
    yield from quantise(value)
    scale = scales.get(item.name, DEFAULT_ACTIVATION_SCALE)
    yield torch.tensor(scale, dtype=torch.bfloat16)


def _check_weights(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> None:
    shapes = dense_shapes(config)
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"{name}: a weight of shape {list(shape)} expected, got none")
        _check_shape(name, weights[name], shape)
    _refuse_unknown("weight", weights.keys() - shapes.keys())


def _check_shape(name: str, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name}: shape {list(shape)} expected, got {list(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"{name}: a float tensor expected, got {weight.dtype}")


def _checked_scales(items: list[_Item], scales: Mapping[str, float]) -> Mapping[str, float]:
    _refuse_unknown("fp8 linear", scales.keys() - {item.name for item in items if item.is_fp8})
    bounds = torch.finfo(torch.bfloat16)
    for name, scale in scales.items():
        if not (math.isfinite(scale) and bounds.tiny <= scale <= bounds.max):
            raise ValueError(f"{name}: a finite activation scale above 0 expected, got {scale}")
    return scales


def _refuse_unknown(what: str, names: set[str]) -> None:
    if names:
        raise ValueError(f"{min(names)}: no {what} of this model")
