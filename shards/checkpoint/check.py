"""Compares a checkpoint's headers, and the values of its scales, with what its config implies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from galerne.errors import CheckpointError
from shards.checkpoint.config import ModelConfig
from shards.checkpoint.names import Layout, Source
from shards.checkpoint.tensor_files import TensorFiles
from shards.kernels.formats import WeightFormat

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

FP8 = "F8_E4M3"
WIDE = ("BF16", "F32")
CODES = {WeightFormat.INT8: ("I8",), WeightFormat.INT4: ("U8",)}
MAX_NAMES_LOGGED = 5

# Belong to the family's checkpoints and are never used: activations are not quantised with them.
IGNORED_ENDINGS = ("activation_scale", ".qscale_act", ".inv_freq", ".k_scale", ".v_scale")
IGNORED_PARTS = ("_fake_quantizer.",)


class CheckedTensors(NamedTuple):
    """Names of the tensors that a checkpoint uses."""

    weights: frozenset[str]
    scales: frozenset[str]  # of fp8 weights
    code_scales: frozenset[str] = frozenset()  # many numbers, checked as they are read

    @property
    def all_names(self) -> frozenset[str]:
        """Everything."""
        return self.weights | self.scales | self.code_scales


def check_tensors(config: ModelConfig, layout: Layout, tensors: TensorFiles) -> CheckedTensors:
    """The names that are in use, when everything needed is there in the right shape and dtype.

    Raises:
        CheckpointError: Names the first tensor that is missing or differs.
    """
    weights: set[str] = set()
    scales: set[str] = set()
    code_scales: set[str] = set()
    for source, dtypes in expected_sources(config, layout):
        if source.name in weights:
            continue
        _check_weight(source, dtypes, tensors)
        weights.add(source.name)
        if source.scale_name is None:
            continue
        if source.held is not WeightFormat.BF16:
            _check_code_scales(source, source.scale_name, tensors)
            code_scales.add(source.scale_name)
        elif tensors.entry(source.name).dtype == FP8:
            _check_scale_header(source, source.scale_name, tensors)
            scales.add(source.scale_name)
    _check_scale_values(sorted(scales), tensors)
    return CheckedTensors(frozenset(weights), frozenset(scales), frozenset(code_scales))


def expected_sources(
    config: ModelConfig, layout: Layout
) -> Iterator[tuple[Source, tuple[str, ...]]]:
    """What a checkpoint must have, with the dtypes allowed for it.

    Any single dense linear of an fp8 checkpoint may have been left in bf16; routed experts may
    not, for a shard computes all of its experts in one format.
    """
    for source in layout.dense.values():
        is_wide = source.scale_name is None or not config.is_fp8
        yield source, CODES.get(source.held, WIDE if is_wide else (FP8, *WIDE))
    dtypes = CODES.get(config.experts_held, (FP8,) if config.is_fp8 else WIDE)
    for layer in range(config.num_layers):
        for index in range(config.num_experts):
            expert = layout.expert(layer, index)
            for source in (*expert.gate_up, expert.down):
                yield source, dtypes


def warn_of_extra_tensors(checked: CheckedTensors, layout: Layout, tensors: TensorFiles) -> None:
    """Log tensors that nobody knows: once, with their number and the first names."""
    extra = sorted(name for name in tensors.file_by_tensor if name not in checked.all_names)
    # A tied checkpoint may carry its head all the same.
    is_tied = layout.dense["head"] is layout.dense["embed"]
    unknown = [name for name in extra if not is_ignored(name, is_tied=is_tied)]
    if unknown:
        logger.warning(
            "checkpoint_extra_tensors origin=%s count=%d first=%s",
            tensors.origin,
            len(unknown),
            ",".join(unknown[:MAX_NAMES_LOGGED]),
        )


def is_ignored(name: str, *, is_tied: bool) -> bool:
    """Whether a tensor is known to be of no use to us."""
    if is_tied and name.endswith(("lm_head.weight", "output.weight")):
        return True
    return name.endswith(IGNORED_ENDINGS) or any(part in name for part in IGNORED_PARTS)


def _check_weight(source: Source, dtypes: tuple[str, ...], tensors: TensorFiles) -> None:
    expected = f"{' or '.join(dtypes)} {list(source.stored_shape)}"
    if source.name not in tensors:
        raise CheckpointError(str(tensors.origin), source.name, expected, "no such tensor")
    entry = tensors.entry(source.name)
    file = str(tensors.file_by_tensor[source.name].path)
    if entry.shape != source.stored_shape:
        shapes = f"shape {list(source.stored_shape)}", f"shape {list(entry.shape)}"
        raise CheckpointError(file, source.name, *shapes)
    if entry.dtype not in dtypes:
        raise CheckpointError(file, source.name, f"dtype {' or '.join(dtypes)}", entry.dtype)


def _check_code_scales(source: Source, name: str, tensors: TensorFiles) -> None:
    if name not in tensors:
        expected = f"the scales of {source.held.label} weight {source.name}"
        raise CheckpointError(str(tensors.origin), name, expected, "no such tensor")
    entry, file = tensors.entry(name), str(tensors.file_by_tensor[name].path)
    expected = f"F32 {list(source.scale_shape)}"
    if (entry.dtype, entry.shape) != ("F32", source.scale_shape):
        raise CheckpointError(file, name, expected, f"{entry.dtype} {list(entry.shape)}")


def _check_scale_header(source: Source, name: str, tensors: TensorFiles) -> None:
    if name not in tensors:
        expected = f"the scale of fp8 weight {source.name}"
        raise CheckpointError(str(tensors.origin), name, expected, "no such tensor")
    entry, file = tensors.entry(name), str(tensors.file_by_tensor[name].path)
    # Ones behind do not matter: [E, 1, 1] or [E] for a stack, [1] or [] for a matrix.
    expected_shape = () if source.stack_index is None else (source.shape[0],)
    behind = entry.shape[len(expected_shape) :]
    if entry.shape != expected_shape + (1,) * len(behind):
        expected = f"shape {list(expected_shape)}, and ones behind"
        raise CheckpointError(file, name, expected, f"shape {list(entry.shape)}")
    if entry.dtype not in WIDE:
        raise CheckpointError(file, name, f"dtype {' or '.join(WIDE)}", entry.dtype)


def _check_scale_values(names: list[str], tensors: TensorFiles) -> None:
    pieces = tensors.read((name, 0, tensors.entry(name).num_bytes) for name in names)
    for name, piece in zip(names, pieces, strict=True):
        scales = _numbers(piece, tensors.entry(name).dtype)
        check_scale_values(scales, str(tensors.file_by_tensor[name].path), name)


def _numbers(piece: bytes, dtype: str) -> Floats:
    """Of one of ``WIDE``, as float32. Not torch's: a plan opens checkpoints without it."""
    if dtype == "F32":
        return np.frombuffer(piece, dtype="<f4")
    return (np.frombuffer(piece, dtype="<u2").astype("<u4") << 16).view("<f4")


def check_scale_values(scales: Floats, file: str, name: str) -> None:
    """Raises CheckpointError if one is not a finite number above 0."""
    scales = scales.reshape(-1)
    is_bad = ~(np.isfinite(scales) & (scales > 0))
    if is_bad.any():
        at = int(is_bad.argmax())
        expected, found = "a finite scale above 0", f"{scales[at]} at index {at}"
        raise CheckpointError(file, name, expected, found)
