"""Which adapter every token of a batch has."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TokenAdapters: TypeAlias = npt.NDArray[np.uint64]  # [T] key of every token's adapter; 0: none


def distinct_keys(adapters: TokenAdapters) -> list[int]:
    """Keys that are there, ascending; not 0."""
    return [int(key) for key in np.unique(adapters) if key]
