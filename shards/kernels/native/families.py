"""Which kernels compute here. Loads no torch: a plan asks before anything computes."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

from galerne.errors import ConfigError
from shards.checkpoint.config import ModelConfig
from shards.kernels.native.compile import LIBRARY

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
FAMILY_VARIABLE: Final = "GALERNE_KERNELS"  # a family's name, or torch; unset: the best there is
TORCH: Final = "torch"
SPIN_VARIABLE: Final = "GALERNE_SPIN_US"  # see ``team.h``
MAX_TOP_K: Final = 16
MAX_THREADS: Final = 64  # of a team


@cache
def open_library(path: Path = LIBRARY) -> ctypes.CDLL | None:
    """The C library; None, and a warning, where it was not built."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        logger.warning("native_kernels_missing reason=%s", error)
        return None
    library.galerne_family_name.restype = ctypes.c_char_p
    return library


def families(library: ctypes.CDLL) -> dict[str, int]:
    """Number of each family that the machine supports, by its name; the best last."""
    return {
        library.galerne_family_name(number).decode(): number
        for number in range(library.galerne_num_families())
        if library.galerne_is_supported(number)
    }


def chosen(found: Mapping[str, _T]) -> _T | None:
    """Of what there is by family, the best last: what the environment asks for, else the best.

    Raises:
        ConfigError: It asks for a family that is unknown or that this machine lacks.
    """
    wanted = os.environ.get(FAMILY_VARIABLE, "")
    if wanted == TORCH:
        return None
    if wanted and wanted not in found:
        known = ", ".join([*found, TORCH])
        raise ConfigError(FAMILY_VARIABLE, wanted, f"this machine has {known}")
    if not found:
        return None
    return found[wanted] if wanted else list(found.values())[-1]


def has_kernels(numerics: str, num_inputs: int) -> bool:
    """Whether weights with so many inputs are for the kernels.

    Raises:
        ConfigError: As ``chosen``.
    """
    if numerics != "bf16" or num_inputs % 2 or os.environ.get(FAMILY_VARIABLE) == TORCH:
        return False
    library = open_library()
    return chosen({} if library is None else families(library)) is not None


def takes(config: ModelConfig) -> bool:
    """Whether the kernels can compute this model's layers."""
    inputs = (
        *(config.hidden_size, config.q_lora_rank, config.kv_lora_rank, config.qk_nope_head_dim),
        *(config.qk_rope_head_dim, config.v_head_dim),
    )
    return config.num_experts_per_tok <= MAX_TOP_K and not any(k % 2 for k in inputs)
